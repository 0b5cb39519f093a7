"""`merge --rounding stochastic`: a function of seed, name and place alone, and right on average."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fixtures.lora_files import (
    Tensors,
    decoder,
    exact_sum,
    lora_factors,
    write_adapter,
    write_decoder,
)
from loratools.adapters import update
from loratools.checkpoints.provenance import read_provenance
from loratools.errors import UsageError
from loratools.operations import streaming
from loratools.operations.merge import merge
from loratools.operations.precision import rounded
from loratools.operations.seeds import draws_of
from loratools.operations.unmerge import unmerge
from tests.operations.test_merge import everything


@pytest.fixture
def tensors() -> Tensors:
    return decoder(dtype=torch.bfloat16, hidden=64, ffn=96)


@pytest.fixture
def base(tmp_path: Path, tensors: Tensors) -> Path:
    return write_decoder(tmp_path / "base", tensors)


@pytest.fixture
def adapter(tmp_path: Path, tensors: Tensors) -> Path:
    return write_adapter(tmp_path / "adapter", lora_factors(tensors, size=0.01))


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name].view(torch.int16), other[name].view(torch.int16)) for name in one
    )


def test_neither_blocks_nor_workers_nor_shards_change_it(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(base, [adapter], tmp_path / "one", rounding="stochastic", seed=4, workers=1)
    merge(base, [adapter], tmp_path / "many", rounding="stochastic", seed=4, workers=3, shard_size="20kB")
    with monkeypatch.context() as patched:
        patched.setattr(streaming, "PART_BYTES", 1000)
        merge(base, [adapter], tmp_path / "parts", rounding="stochastic", seed=4)
    one = everything(tmp_path / "one")
    assert same(one, everything(tmp_path / "many")) and same(one, everything(tmp_path / "parts"))
    merge(base, [adapter], tmp_path / "other", rounding="stochastic", seed=5)
    assert not same(one, everything(tmp_path / "other"))
    merge(base, [adapter], tmp_path / "again", rounding="stochastic", seed=4)
    assert (tmp_path / "again/loratools.json").read_bytes() == (tmp_path / "one/loratools.json").read_bytes()


def test_blocks_of_other_sizes_draw_the_same(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products of other blocks may round differently in float32: no more than a few elements may differ."""
    merge(base, [adapter], tmp_path / "one", rounding="stochastic")
    monkeypatch.setattr(update, "BLOCK_BYTES", 3 * 4 * 64)
    merge(base, [adapter], tmp_path / "small", rounding="stochastic")
    one, other = everything(tmp_path / "one"), everything(tmp_path / "small")
    differing = sum(int((one[name] != other[name]).sum()) for name in one)
    assert differing <= 5e-4 * sum(tensor.numel() for tensor in one.values())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_element_is_a_neighbour_of_the_sum_by_its_own_draw(dtype: str, tmp_path: Path) -> None:
    """The draws belong to places in the whole tensor, whatever part of it a block is."""
    tensors = decoder(dtype=getattr(torch, dtype), hidden=64, ffn=96)
    base = write_decoder(tmp_path / "base", tensors)
    factors = lora_factors(tensors, size=0.01)
    merge(
        base, [write_adapter(tmp_path / "adapter", factors)], tmp_path / "out", rounding="stochastic", seed=9
    )
    exact = exact_sum(tensors, (factors, 1.0))
    written = everything(tmp_path / "out")
    for module in factors:
        name = f"{module}.weight"
        draws = draws_of(9, name).at(0, tensors[name].numel()).reshape(tensors[name].shape)
        expected = rounded(exact[name].numpy(), dtype, draws)
        found = written[name].view(torch.int16).numpy() if dtype == "bfloat16" else written[name].numpy()
        agree = found.view(expected.dtype) == expected
        assert agree.mean() >= 0.997, name  # but where float32's own rounding crosses a draw


def test_what_nothing_is_added_to_stays(base: Path, tensors: Tensors, tmp_path: Path) -> None:
    factors = {module: (A, torch.zeros_like(B)) for module, (A, B) in lora_factors(tensors).items()}
    report = merge(base, [write_adapter(tmp_path / "zero", factors)], tmp_path / "out", rounding="stochastic")
    assert {row.changed for row in report.modules or ()} == {0.0}
    assert (base / "model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()


def test_another_dtype_is_rounded_by_chance_too(tmp_path: Path) -> None:
    """Also in tensors that no update goes to; and elements that it leaves alone do not count as changed."""
    tensors = decoder(dtype=torch.float32)
    base = write_decoder(tmp_path / "base", tensors)
    factors = lora_factors(tensors)
    for A, B in factors.values():
        B[:5] = 0.0
        assert A.any()
    adapter = write_adapter(tmp_path / "adapter", factors)
    report = merge(base, [adapter], tmp_path / "out", dtype="bfloat16", rounding="stochastic")
    written = everything(tmp_path / "out")
    name = "model.norm.weight"
    expected = rounded(tensors[name].double().numpy(), "bfloat16", draws_of(0, name).at(0, 32))
    assert np.array_equal(written[name].view(torch.int16).numpy().view(np.uint16), expected)
    for row in report.modules or ():
        assert row.changed is not None and row.changed <= 1 - 5 / row.shape[0]


def test_values_that_do_not_fit_are_refused_as_always(tmp_path: Path) -> None:
    tensors = decoder(dtype=torch.float16, layers=1)
    factors = lora_factors(tensors)
    A, B = factors["model.layers.0.self_attn.q_proj"]
    factors["model.layers.0.self_attn.q_proj"] = (A, B * 1e8)
    base, adapter = write_decoder(tmp_path / "base", tensors), write_adapter(tmp_path / "a", factors)
    with pytest.raises(Exception, match="values do not fit into float16"):
        merge(base, [adapter], tmp_path / "out", rounding="stochastic")
    assert not (tmp_path / "out").exists()


def test_on_average_a_swallowed_update_comes_back(tmp_path: Path) -> None:
    """An update of some hundredths of a gap: to nearest nothing of it is left; the mean over seeds is the
    update, with the variance of a coin.

    With p the share of a gap, the mean of n coins has the variance gap^2 p (1 - p) / n. The squared distance
    of the mean from the update, over its expectation, has a deviation of sqrt(2 / elements) and the mean over
    all elements one of 1 / sqrt(elements): 6 of either are a false alarm in fewer than 1 of 10^8.
    """
    tensors = decoder(dtype=torch.bfloat16, layers=1, hidden=64)
    name = "model.layers.0.self_attn.q_proj"
    gap, seeds = 2.0**-7, 40
    signs = torch.where(torch.rand(64, 64, generator=torch.Generator().manual_seed(2)) < 0.5, -1.0, 1.0)
    tensors[f"{name}.weight"] = (1.25 + 0.5 * torch.rand(64, 64)).to(torch.bfloat16) * signs.bfloat16()
    A, B = torch.linspace(-1.0, -0.4, 64)[None] * gap / 15, signs[:, :1]
    added = (B.double() @ A.double()).numpy()
    base = write_decoder(tmp_path / "base", tensors)
    adapter = write_adapter(tmp_path / "adapter", {name: (A, B)})
    before = tensors[f"{name}.weight"].double().numpy()

    def merged(**options: object) -> np.ndarray:
        merge(base, [adapter], tmp_path / "out", force=True, **options)  # type: ignore[arg-type]
        return load_file(tmp_path / "out/model.safetensors")[f"{name}.weight"].double().numpy()

    assert np.array_equal(merged(), before)
    mean = np.mean([merged(rounding="stochastic", seed=seed) for seed in range(seeds)], axis=0) - before
    p = np.abs(added) / gap
    variance = gap**2 * p * (1 - p) / seeds
    deviations = (mean - added) ** 2 / variance
    excess = np.mean(1 / (seeds * p * (1 - p)))  # of a binomial's fourth moment
    assert abs(deviations.mean() - 1) < 6 * np.sqrt((2 + excess) / deviations.size)
    assert abs(np.sum(mean - added)) < 6 * np.sqrt(variance.sum())
    projected = np.vdot(mean, added) / np.vdot(added, added)
    assert abs(projected - 1) < 6 * np.sqrt(np.vdot(variance, added**2)) / np.vdot(added, added)


def test_provenance_holds_rounding_and_seed(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge(base, [adapter], tmp_path / "nearest", seed=3)
    merge(base, [adapter], tmp_path / "chance", rounding="stochastic", seed=3)
    nearest, chance = (read_provenance(tmp_path / name) for name in ("nearest", "chance"))
    assert nearest is not None and chance is not None
    assert {"rounding", "seed"}.isdisjoint(nearest.options)
    assert (chance.options["rounding"], chance.options["seed"]) == ("stochastic", 3)


def test_wrong_words_are_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rounding"):
        merge(base, [adapter], tmp_path / "out", rounding="up")
    with pytest.raises(UsageError, match="a seed of -1 is negative"):
        merge(base, [adapter], tmp_path / "out", seed=-1)


@pytest.mark.parametrize("size", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_subtraction_knows_the_draws(dtype: str, size: float, tmp_path: Path) -> None:
    """Without an undo record: what may be off is as little, and as truly said, as for rounding to nearest."""
    tensors = decoder(dtype=getattr(torch, dtype), layers=1, hidden=64, ffn=96)
    base = write_decoder(tmp_path / "base", tensors)
    adapter = write_adapter(tmp_path / "adapter", lora_factors(tensors, size=size))
    shares = {}
    for rounding in ("nearest", "stochastic"):
        merge(base, [adapter], tmp_path / rounding, rounding=rounding, seed=8)
        report = unmerge(tmp_path / rounding, [adapter], tmp_path / f"back {rounding}")
        assert not any("cannot" in line or "not what" in line for line in report.warnings)
        back = everything(tmp_path / f"back {rounding}")
        for row in report.modules or ():
            off = back[row.name].double() - tensors[row.name].double()
            share, claimed = (
                float((off != 0).double().mean()),
                float((row.exact is not True and row.exact) or 0),
            )
            assert share <= claimed, row.name
            assert float(off.abs().max()) <= (row.largest_difference or 0.0)
            shares[rounding, row.name] = share
    total = {
        rounding: sum(share for (used, _), share in shares.items() if used == rounding)
        for rounding in ("nearest", "stochastic")
    }
    assert total["stochastic"] <= 1.3 * total["nearest"] + 0.02
