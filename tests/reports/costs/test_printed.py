"""Whether a value rounds to a print: the digits that are printed, and no more."""

from __future__ import annotations

import pytest

from loratools.reports.costs.printed import follows

CASES = [
    ("4.7M", 4_718_592, True),
    ("4.7M", 4_650_000, True),
    ("4.7M", 4_750_000, True),  # a half may have gone either way
    ("4.7M", 4_750_001, False),
    ("4.7M", 4_649_999, False),
    ("774.03M", 774_030_080, True),
    ("354.92M", 354_823_168, False),
    ("175,255.8M", 175_255_810_000, True),
    ("350 GB", 349.2e9, True),  # the zero is no digit that was meant
    ("350 GB", 344.9e9, False),
    ("35MB", 35.4e6, True),
    ("35MB", 37.7e6, False),
    ("10,000x", 14_999, True),
    ("10,000x", 4_999, False),
    ("+20.7%", 20.707, True),
    ("+3.0%", 3.06, False),
    ("+3.0%", 2.9529, True),
]


@pytest.mark.parametrize(("printed", "value", "expected"), CASES)
def test_a_value_rounds_to_a_print_or_not(printed: str, value: float, expected: bool) -> None:
    assert follows(printed, value) is expected


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="no printed number"):
        follows("about 5", 5)
