"""Training memory against what torch holds after a step of Adam."""

from __future__ import annotations

import pytest
import torch

from loratools.reports.costs.memory import PRECISIONS, memory_rows
from loratools.reports.costs.rows import MemoryRow, Method

FROZEN, TRAINED = 40, 12


def held(dtype: torch.dtype, *, frozen: int, trained: int) -> dict[str, int]:
    """The bytes of weights, gradients and moments after one step in one dtype."""
    base = torch.zeros(frozen, dtype=dtype)
    weight = torch.nn.Parameter(torch.ones(trained, dtype=dtype))
    optimizer = torch.optim.Adam([weight])
    ((weight * 2).sum() + base.sum()).backward()
    optimizer.step()
    assert weight.grad is not None
    state = optimizer.state[weight]
    moments = (state["exp_avg"], state["exp_avg_sq"])
    return {
        "weights": base.nbytes + weight.nbytes,
        "gradients": weight.grad.nbytes,
        "moments": sum(moment.nbytes for moment in moments),
    }


def rows() -> dict[tuple[str, Method], MemoryRow]:
    made = memory_rows(FROZEN, [({"rank": 1}, TRAINED)])
    return {(row.precision, row.method): row for row in made}


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("16-bit", torch.bfloat16)])
def test_parts_are_what_adam_holds(precision: str, dtype: torch.dtype) -> None:
    for method, real in (
        (Method.LORA, held(dtype, frozen=FROZEN, trained=TRAINED)),
        (Method.FULL, held(dtype, frozen=0, trained=FROZEN)),
    ):
        row = rows()[precision, method]
        assert {part: getattr(row, part) for part in real} == real
        assert row.total == sum(real.values()) and row.master == 0


def test_mixed_precision_takes_sixteen_bytes_for_what_is_trained() -> None:
    """Weights and gradients in 16 bits, moments and a copy of the weights in 32."""
    full = rows()["mixed", Method.FULL]
    assert (full.weights, full.gradients, full.moments, full.master) == (80, 80, 320, 160)
    assert full.total == 16 * FROZEN and full.ratio_total == 1
    lora = rows()["mixed", Method.LORA]
    assert lora.total == 2 * FROZEN + 16 * TRAINED
    assert lora.ratio_total == full.total / lora.total


def test_every_precision_has_both() -> None:
    assert len(rows()) == 2 * len(PRECISIONS)
    assert rows()["16-bit, float32 moments", Method.FULL].total == 12 * FROZEN
