"""Grids: units against an independent definition, and numbers whose dtype says less than they do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loratools.linalg.noise_grid import Grid, recognise
from loratools.linalg.rounding import ulp

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def normal(*shape: int, scale: float = 0.02, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1e-6, 0.02, 30.0])
@pytest.mark.parametrize("name", DTYPES)
def test_units_are_the_distance_to_the_next_number(name: str, scale: float) -> None:
    values = normal(40, 50, scale=scale).to(DTYPES[name])
    units = recognise(values).units(values).double().numpy()
    np.testing.assert_array_equal(units, ulp(values.double().numpy(), name))


def test_the_unit_of_zero_and_of_subnormals_is_the_least_number() -> None:
    values = normal(30, 40).to(torch.float16)
    values[0, :3] = torch.tensor([0.0, 2.0**-20, -(2.0**-24)])
    assert recognise(values).units(values)[0, :3].tolist() == [2.0**-24] * 3


def test_a_scale_divides_units_exactly_and_a_buffer_takes_them() -> None:
    values = normal(30, 40).to(torch.bfloat16)
    grid, buffer = recognise(values), torch.empty(30, 40)
    scaled = grid.units(values, 2.0**-12, out=buffer)
    assert scaled.data_ptr() == buffer.data_ptr()
    assert torch.equal(scaled * 2.0**-12, grid.units(values))


STORED_WIDER = {
    "bfloat16 as float32": (torch.bfloat16, torch.float32, 7),
    "bfloat16 as float64": (torch.bfloat16, torch.float64, 7),
    "bfloat16 as float16": (torch.bfloat16, torch.float16, 7),
    "float16 as float32": (torch.float16, torch.float32, 10),
    "float16 as float64": (torch.float16, torch.float64, 10),
    "float32 as float64": (torch.float32, torch.float64, 23),
    "float32": (torch.float32, torch.float32, 23),
    "float16": (torch.float16, torch.float16, 10),
}


@pytest.mark.parametrize(("rounded", "stored", "bits"), STORED_WIDER.values(), ids=STORED_WIDER)
def test_the_grid_is_told_from_the_numbers(rounded: torch.dtype, stored: torch.dtype, bits: int) -> None:
    values = normal(300, 200).to(torch.float32).to(rounded).to(stored)
    assert recognise(values).fraction_bits == bits


def test_float16_numbers_stored_wider_keep_their_least_unit() -> None:
    values = normal(300, 200, scale=1e-4).to(torch.float16)
    wide = values.to(torch.float32)
    assert torch.equal(recognise(wide).units(wide), recognise(values).units(values))


def test_a_few_numbers_off_the_grid_do_not_hide_it_and_many_do() -> None:
    values = normal(300, 200).to(torch.bfloat16).to(torch.float32)
    few, many = values.clone(), values.clone()
    few[::20, ::20] += 1e-7
    many[:, :100] += 1e-7
    assert recognise(few).fraction_bits == 7
    assert recognise(many).fraction_bits == 23


def test_what_a_sample_misses_the_whole_tensor_shows() -> None:
    values = normal(1000, 400).to(torch.bfloat16).to(torch.float32)
    step = values.numel() // (1 << 16)
    off = torch.arange(values.numel()) % step == 1  # never in the sample, which takes each sixth
    values.view(-1)[off] += 1e-7
    assert recognise(values).fraction_bits == 23


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
def test_rounding_to_a_grid_is_the_cast_to_its_dtype(name: str) -> None:
    values = normal(50, 60)
    rounded = recognise(values.to(DTYPES[name])).round(values)
    assert rounded.dtype is torch.float64
    assert torch.equal(rounded, values.float().to(DTYPES[name]).double())


def test_rounding_to_a_grid_that_no_dtype_has() -> None:
    grid = Grid(3, 2.0**-9)
    values = torch.tensor([1.0, 1.06, 1.0625, 1.19, 15.4, 2.0**-9 * 1.4, 0.0], dtype=torch.float64)
    assert grid.round(values).tolist() == [1.0, 1.0, 1.0, 1.25, 15.0, 2.0**-9, 0.0]


def test_signs_are_codes_and_no_roundings() -> None:
    values = normal(30, 40).sign().float()
    assert recognise(values) == Grid(23, 2.0**-149)


def test_zeros_lie_on_their_dtype_s_own_grid_and_integers_on_none() -> None:
    assert recognise(torch.zeros(4, 4)) == Grid(23, 2.0**-149)
    with pytest.raises(TypeError, match=r"not torch\.int32"):
        recognise(torch.zeros(4, 4, dtype=torch.int32))
