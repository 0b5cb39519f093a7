"""Sizes as users write them."""

from __future__ import annotations

import pytest

from loratools.checkpoints.sizes import parse_size
from loratools.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5_000_000_000),
        ("5 gb", 5_000_000_000),
        ("500MB", 500_000_000),
        ("1.5MB", 1_500_000),
        ("0.1KB", 100),
        ("2GiB", 2 * 2**30),
        ("1TiB", 2**40),
        ("1TB", 10**12),
        ("4KiB", 4096),
        ("12", 12),
        ("12B", 12),
        ("1.29B", 1),
        (" 7MiB ", 7 * 2**20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GB",
        "0",
        "0.1B",
        "-5GB",
        "5 G B",
        "5GBit",
        "5XB",
        "1e9",
        "nan",
        "5,0GB",
        "٥GB",
        "9" * 5000,
        "1..5GB",
    ],
)
def test_what_is_no_size_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert caught.value.exit_code == 2 and "5GB" in str(caught.value)
