"""Speeds as users write them."""

from __future__ import annotations

import pytest

from loratools.errors import UsageError
from loratools.reports.costs.link import parse_link

SPEEDS = {
    "1Gbit": 125e6, "1gbit/s": 125e6, "100Mbit": 12.5e6, "10MB/s": 10e6, "10MB": 10e6, "100Mb": 12.5e6,
    "100Mbps": 12.5e6, "10MBps": 10e6, "1.5 Gbit": 187.5e6, "8bit": 1.0, "2MiB/s": 2 * 2**20, "1Tbit": 125e9,
    "5 Gbits/s": 625e6, "3kbyte": 3e3, "7 bytes/s": 7.0,
}  # fmt: skip


@pytest.mark.parametrize(("text", "speed"), SPEEDS.items())
def test_a_speed(text: str, speed: float) -> None:
    assert parse_link(text) == pytest.approx(speed)


@pytest.mark.parametrize(
    "text", ["fast", "", "1", "Gbit", "-1Gbit", "0Gbit", "1Gbit/min", "nanGbit", "1e99Gbit"]
)
def test_what_is_no_speed(text: str) -> None:
    with pytest.raises(UsageError, match="is no speed"):
        parse_link(text)
