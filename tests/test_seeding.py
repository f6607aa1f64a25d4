"""Derived seeds are pinned, and torch's global generators are left as they were."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomal.seeding import derive_generator, derive_seed, isolated_rng
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


def test_isolated_draws_depend_on_the_seed_alone() -> None:
    def draws(seed: int) -> list[float]:
        torch.rand(3)  # moves the global generator, which must not matter
        with isolated_rng(CPU, seed):
            return [*torch.rand(4).tolist(), *torch.nn.Linear(2, 2).weight.flatten().tolist()]

    seeds = [derive_seed(0, "a"), derive_seed(0, "b"), 0, 2**31, 2**63 - 1]
    assert [draws(seed) for seed in seeds] == [draws(seed) for seed in seeds]
    assert len({tuple(draws(seed)) for seed in seeds}) == len(seeds)


def test_the_global_generator_is_restored() -> None:
    before = torch.get_rng_state()
    with isolated_rng(CPU, 1):
        torch.rand(3)
        with isolated_rng(CPU, 2):
            torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_is_restored_after_an_error() -> None:
    def fail() -> None:
        with isolated_rng(CPU, 1):
            torch.rand(3)
            raise RuntimeError("planned")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="planned"):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


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
