"""The archive: look-up, the best, the hall of fame, counts."""

from __future__ import annotations

import itertools
import math

import pytest

from evomal.methods.base import STATUSES, Archive, Outcome
from run_helpers import new_candidate, new_outcome

INF = math.inf


def filled(*outcomes: Outcome) -> Archive:
    archive = Archive()
    for outcome in outcomes:
        archive.add(outcome)
    return archive


@pytest.mark.parametrize(
    ("known", "asked", "found"),
    [
        ("add(y, f)", "add(y, f)", True),
        ("add(y, f)", "add(f, y)", True),
        ("min(square(y), mul(f, 1))", "min(mul(1, f), square(y))", True),
        ("sub(y, f)", "sub(f, y)", False),
        ("div(y, f)", "div(f, y)", False),
        ("add(y, f)", "mul(y, f)", False),
        ("abs(sub(y, f))", "sub(y, f)", False),
    ],
)
def test_equal_up_to_commuted_arguments_is_found(known: str, asked: str, found: bool) -> None:
    outcome = new_outcome(new_candidate(0, known), 1.0)
    expected = outcome if found else None
    assert filled(outcome).find(new_candidate(1, asked)) is expected


def test_the_task_loss_is_found_and_differs_from_expressions() -> None:
    outcome = new_outcome(new_candidate(0, None), 1.0)
    archive = filled(outcome)
    assert archive.find(new_candidate(1, None)) is outcome
    assert archive.find(new_candidate(1, "sub(y, f)")) is None


def test_the_first_of_equal_candidates_is_found() -> None:
    first = new_outcome(new_candidate(0, "add(y, f)"), 2.0, gradient_key="a")
    better = new_outcome(new_candidate(1, "add(f, y)"), 1.0, "duplicate", gradient_key="a")
    archive = filled(first, better)
    assert archive.find(new_candidate(2, "add(y, f)")) is first
    assert archive.find_gradient("a") is first


@pytest.mark.parametrize("status", STATUSES)
def test_outcomes_of_every_status_are_found_and_counted(status: str) -> None:
    outcome = new_outcome(new_candidate(3, "add(y, f)"), INF, status)  # type: ignore[arg-type]
    archive = filled(outcome)
    assert archive.find(new_candidate(4, "add(f, y)")) is outcome
    assert archive.counts == {name: int(name == status) for name in STATUSES}


def test_gradients_are_found_by_their_key_alone() -> None:
    first = new_outcome(new_candidate(0, "add(y, f)"), 1.0, gradient_key="a")
    second = new_outcome(new_candidate(1, "sub(y, f)"), 1.0, gradient_key="b")
    without = new_outcome(new_candidate(2, "mul(y, f)"), 1.0)
    archive = filled(first, second, without)
    assert archive.find_gradient("a") is first
    assert archive.find_gradient("b") is second
    assert archive.find_gradient("c") is None


RANKED = [
    new_outcome(new_candidate(5, "square(sub(y, f))"), 0.5),
    new_outcome(new_candidate(2, "sub(y, f)"), 1.0),
    new_outcome(new_candidate(3, "add(y, f)"), 1.0),
    new_outcome(new_candidate(1, "square(mul(y, f))"), 1.0),
    new_outcome(new_candidate(0, "mul(y, f)"), INF, "rejected"),
]
"""Best first: by fitness, then nodes, then number."""


def test_best_and_hall_of_fame_do_not_depend_on_the_order_of_arrival() -> None:
    for order in itertools.permutations(RANKED):
        archive = filled(*order)
        assert archive.best is RANKED[0]
        assert archive.hall_of_fame == {4: RANKED[0], 3: RANKED[1]}


def test_ties_go_to_fewer_nodes_then_to_the_earlier_candidate() -> None:
    assert filled(*RANKED[1:4]).best is RANKED[1]
    assert filled(*RANKED[2:4]).best is RANKED[2]


@pytest.mark.parametrize("fitness", [INF, -INF, math.nan])
def test_a_fitness_that_is_not_finite_is_never_best(fitness: float) -> None:
    archive = filled(new_outcome(new_candidate(0, "sub(y, f)"), fitness, "diverged"))
    assert archive.best is None
    assert archive.hall_of_fame == {}
    finite = new_outcome(new_candidate(1, "square(sub(y, f))"), 1e30)
    archive.add(finite)
    assert archive.best is finite
