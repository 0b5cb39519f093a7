"""Which matrices patterns find: whole, by layer, or slices of fused ones."""

from __future__ import annotations

import pytest

from loratools.errors import UsageError
from loratools.reports.costs.architecture import Architecture, Parts, Role
from loratools.reports.costs.targets import Adapted, choose

SLICES = (("q", 8), ("k", 4), ("v", 4))
MODEL = Architecture(
    name="model",
    source="a test",
    model_type=None,
    layers=3,
    hidden=8,
    parts=(
        Parts("h.*.attn.qkv", Role.MATRIX, (16, 8), (range(3),), SLICES),
        Parts("h.*.mlp.experts.*.up", Role.MATRIX, (12, 8), (range(3), range(2))),
        Parts("lm_head", Role.HEAD, (20, 8)),
    ),
)


def found(*patterns: str) -> dict[str, tuple[int, int, int]]:
    targets = choose(MODEL, patterns, given=True)
    return {one.name: (one.out, one.into, one.count) for one in targets.matrices}


def test_without_patterns_all_matrices_of_blocks() -> None:
    targets = choose(MODEL, [], given=False)
    assert targets.matrices == (
        Adapted("h.*.attn.qkv", 16, 8, 3),
        Adapted("h.*.mlp.experts.*.up", 12, 8, 6),
    )
    assert (targets.count, targets.choice) == (9, "all linear layers of the blocks")
    assert targets.names == ["attn.qkv", "mlp.experts.*.up"]
    assert targets.parameters(2) == 2 * (3 * 24 + 6 * 20)
    assert targets.largest_rank == 8


def test_a_pattern_finds_layers_experts_and_slices() -> None:
    assert found("qkv") == {"h.*.attn.qkv": (16, 8, 3)}
    assert found(r"h\.[12]\.") == {"h.*.attn.qkv": (16, 8, 2), "h.*.mlp.experts.*.up": (12, 8, 4)}
    assert found(r"experts\.1\.") == {"h.*.mlp.experts.*.up": (12, 8, 3)}
    assert found(r"qkv\.(q|v)$") == {"h.*.attn.qkv.q": (8, 8, 3), "h.*.attn.qkv.v": (4, 8, 3)}
    assert found(r"h\.0\.attn\.qkv\.k", "up$") == {
        "h.*.attn.qkv.k": (4, 8, 1),
        "h.*.mlp.experts.*.up": (12, 8, 6),
    }


@pytest.mark.parametrize("pattern", ["lm_head", "nothing", "gate"])
def test_a_pattern_that_finds_nothing_is_refused_with_what_there_is(pattern: str) -> None:
    with pytest.raises(UsageError, match=r"finds no linear layer .*there are attn.qkv, mlp.experts"):
        choose(MODEL, ["up", pattern], given=True)


def test_what_is_no_pattern_is_refused() -> None:
    with pytest.raises(UsageError, match="is no regular expression"):
        choose(MODEL, ["("], given=True)
