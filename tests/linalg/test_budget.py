"""Ranks for a budget, against all of them."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from loratools.linalg.budget import Curve, spend


def kept(curves: list[Curve], ranks: tuple[int, ...]) -> float:
    return sum(sum(curve.energies[:rank]) for curve, rank in zip(curves, ranks, strict=True))


def cost(curves: list[Curve], ranks: tuple[int, ...]) -> int:
    return sum(curve.bytes(rank) for curve, rank in zip(curves, ranks, strict=True))


def best(curves: list[Curve], budget: int) -> float | None:
    """The most energy that any ranks keep within the budget, by trying all."""
    every = product(*(range(curve.least, len(curve.energies) + 1) for curve in curves))
    return max((kept(curves, ranks) for ranks in every if cost(curves, ranks) <= budget), default=None)


@st.composite
def some_curves(draw: st.DrawFn) -> list[Curve]:
    energy = st.floats(0.0, 100.0, allow_subnormal=False).map(lambda value: round(value, 3))
    return [
        Curve(
            energies=sorted(draw(st.lists(energy, max_size=4)), reverse=True),
            step=draw(st.integers(1, 40)),
            fixed=draw(st.integers(0, 60)),
        )
        for _ in range(draw(st.integers(1, 4)))
    ]


@settings(max_examples=300, deadline=None)
@given(curves=some_curves(), budget=st.integers(0, 400))
def test_no_ranks_keep_more_than_the_last_raise_beyond(curves: list[Curve], budget: int) -> None:
    found = spend(curves, budget)
    assert found is not None
    assert found.bytes == cost(curves, found.ranks) <= budget
    assert found.energy == kept(curves, found.ranks)
    optimum = best(curves, budget)
    assert optimum is not None
    assert found.energy <= optimum + 1e-9
    assert optimum <= found.energy + found.bound + 1e-9
    assert found.bound == 0.0 or found.bound <= max(sum(curve.energies) for curve in curves)


@settings(max_examples=100, deadline=None)
@given(
    energies=st.lists(st.lists(st.floats(0.1, 9.0), min_size=1, max_size=5), min_size=1, max_size=4),
    count=st.integers(0, 12),
)
def test_of_one_price_the_largest_are_bought(energies: list[list[float]], count: int) -> None:
    curves = [Curve(sorted(each, reverse=True), step=10) for each in energies]
    found = spend(curves, 10 * count + 9)
    assert found is not None
    largest = sorted((energy for each in energies for energy in each), reverse=True)[:count]
    assert abs(found.energy - sum(largest)) < 1e-9


def test_a_first_triplet_that_costs_more_is_weighed_with_those_after_it() -> None:
    dear = Curve([5.0, 5.0, 5.0], step=10, fixed=100)
    cheap = Curve([1.0], step=10)
    found = spend([dear, cheap], 130)
    assert found is not None and found.ranks == (3, 0)


def test_what_must_be_there_is_bought_first_and_nothing_is_bought_for_no_energy() -> None:
    must = Curve([0.0], step=10, least=1)
    found = spend([must, Curve([3.0, 0.0], step=10)], 100)
    assert found is not None and found.ranks == (1, 1)
    assert spend([must], 9) is None


def test_energy_is_weighed_by_its_bytes() -> None:
    found = spend([Curve([10.0], step=100), Curve([4.0] * 10, step=10)], 105)
    assert found is not None and found.ranks == (0, 10)
    assert found.bound == 10.0
