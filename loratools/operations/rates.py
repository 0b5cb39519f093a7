"""What one worker does in a second on a small server: what the estimates of plans rest on."""

from __future__ import annotations

__all__ = ["MULTIPLY_RATE", "READ_RATE"]

READ_RATE = 4e8
"""Bytes of a checkpoint that are read and looked at."""

MULTIPLY_RATE = 1.5e10
"""Multiplications in products of a matrix with a skinny one."""
