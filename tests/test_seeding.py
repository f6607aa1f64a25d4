"""Derived seeds are pinned, and the global generators are left as they were."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import get_bit_generator, set_bit_generator  # type: ignore[attr-defined]
from torch import nn

from evomal.seeding import derive_generator, derive_seed, isolated_rng, kept_rng
from strategies import fast

CPU = torch.device("cpu")
names = st.lists(st.integers() | st.text(max_size=5), max_size=4).map(tuple)


@pytest.mark.parametrize(
    ("stream", "seed"),
    [((0, "meta-step", "diabetes/mlp", 17), 7673435476154905624), ((1,), 2122349437186147863)],
)
def test_seeds_are_pinned(stream: tuple[int | str, ...], seed: int) -> None:
    assert derive_seed(*stream) == seed


def test_seeds_do_not_depend_on_the_process() -> None:
    code = "from evomal.seeding import derive_seed; print(derive_seed(0, 'a', 3))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(found.stdout) == derive_seed(0, "a", 3)


@fast
@given(names, names)
def test_streams_have_one_seed_each(one: tuple[int | str, ...], two: tuple[int | str, ...]) -> None:
    assert (derive_seed(*one) == derive_seed(*two)) == (one == two)
    assert 0 <= derive_seed(*one) < 2**63


def test_neighbouring_streams_differ() -> None:
    streams: list[tuple[int | str, ...]] = [
        (i, name, j) for i in range(20) for name in ("phi", "theta") for j in range(20)
    ]
    streams += [("1", 1), (1, "1"), ("1", "1"), (1, 1), (11,), ("11",), ("1, 1",), (), ("",)]
    assert len({derive_seed(*stream) for stream in streams}) == len(streams)


def test_generators_are_those_of_the_stream() -> None:
    def draws(*stream: int | str) -> list[float]:
        generator = derive_generator(*stream)
        return [float(value) for value in generator.random(5)]

    assert draws(0, "selection") == draws(0, "selection")
    assert draws(0, "selection") != draws(1, "selection")
    assert draws(0, "selection") != draws(0, "variation")
    assert draws(0, "selection") == [
        0.20950349903191912,
        0.935759214210223,
        0.4583157786284118,
        0.7030021977287068,
        0.482925654654793,
    ]


GLOBAL_DRAWS: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.rand(3).tolist(),
    "a layer": lambda: nn.Linear(2, 2).weight.flatten().tolist(),
    "numpy": lambda: np.random.rand(3).tolist(),
    "numpy, a pair of which one is kept": np.random.randn,
    "Python": random.random,
}


def global_states() -> list[str]:
    states = (torch.get_rng_state().tolist(), np.random.get_state(legacy=False), random.getstate())
    with np.printoptions(threshold=1000):
        return [repr(state) for state in states]


@pytest.mark.parametrize("draw", GLOBAL_DRAWS.values(), ids=GLOBAL_DRAWS)
def test_isolated_draws_depend_on_the_seed_alone(draw: Callable[[], Any]) -> None:
    def draws(seed: int) -> str:
        draw()  # moves the global generator, which must not matter
        with isolated_rng(CPU, seed):
            return repr([draw(), draw()])

    seeds = [derive_seed(0, "a"), derive_seed(0, "b"), 0, 2**31, 2**63 - 1]
    assert [draws(seed) for seed in seeds] == [draws(seed) for seed in seeds]
    with kept_rng():
        assert [draws(seed) for seed in seeds] == [draws(seed) for seed in seeds]
    assert len({draws(seed) for seed in seeds}) == len(seeds)


@pytest.mark.parametrize("outer", [nullcontext, kept_rng])
def test_global_generators_are_restored(outer: Callable[[], Any]) -> None:
    np.random.randn()
    before = global_states()
    with outer(), isolated_rng(CPU, 1):
        for draw in GLOBAL_DRAWS.values():
            draw()
        inside = global_states()
        with isolated_rng(CPU, 2):
            assert global_states() != inside
        with kept_rng(), isolated_rng(CPU, 3):
            assert global_states() != inside
        assert global_states() == inside
    assert global_states() == before
    assert inside != before


@pytest.mark.parametrize("outer", [nullcontext, kept_rng])
def test_global_generators_are_restored_after_an_error(outer: Callable[[], Any]) -> None:
    def fail() -> None:
        with outer(), isolated_rng(CPU, 1):
            for draw in GLOBAL_DRAWS.values():
                draw()
            raise RuntimeError("planned")

    before = global_states()
    with pytest.raises(RuntimeError, match="planned"):
        fail()
    assert global_states() == before


def test_draws_of_a_block_continue_where_they_were_before_an_inner_block() -> None:
    def draws(*, interrupted: bool) -> str:
        with kept_rng(), isolated_rng(CPU, 1):
            first = [draw() for draw in GLOBAL_DRAWS.values()]
            if interrupted:
                with isolated_rng(CPU, 2):
                    np.random.rand()
            return repr([*first, *[draw() for draw in GLOBAL_DRAWS.values()]])

    assert draws(interrupted=True) == draws(interrupted=False)


def test_another_bit_generator_of_numpy_is_put_back() -> None:
    theirs, before = np.random.PCG64(5), get_bit_generator()
    set_bit_generator(theirs)
    try:
        with isolated_rng(CPU, 1):
            np.random.rand()
            np.random.seed(3)  # as a user's factory may
        assert get_bit_generator() is theirs
        assert np.random.random_sample() == np.random.Generator(np.random.PCG64(5)).random()
    finally:
        set_bit_generator(before)


DEVICES = ["cpu", "cuda", "cuda:0"] if torch.cuda.is_available() else ["cpu"]


@pytest.mark.parametrize("device", DEVICES)
def test_every_devices_generator_is_restored(device: str) -> None:
    def draws() -> list[float]:
        with isolated_rng(torch.device(device), 1):
            values: list[float] = torch.rand(3, device=device).tolist()
            return values

    def states() -> list[torch.Tensor]:
        return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]

    before = states()
    assert draws() == draws()
    assert all(torch.equal(now, then) for now, then in zip(states(), before, strict=True))
