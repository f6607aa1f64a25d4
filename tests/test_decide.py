"""The automaton that decides: on its own, whatever the order in which results come in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from evomal.methods.base import Archive, Candidate, Outcome
from evomal.runs.decide import Decisions, Failure
from evomal.training.engines.base import Training
from evomal.training.screening import Screening
from evomal.training.stages import StageSeconds
from run_helpers import new_candidate, new_outcome

INF = math.inf
A, B, C = "add(y, f)", "sub(y, f)", "mul(y, f)"


def candidates(*texts: str | None, first: int = 0, generation: int = 0) -> list[Candidate]:
    return [new_candidate(first + i, text, generation) for i, text in enumerate(texts)]


def screening(candidate: Candidate, key: str | None = None) -> Screening:
    assert candidate.loss is not None
    return Screening(candidate.loss, gradient_key=key)


def rows(outcomes: Sequence[Outcome]) -> list[tuple[int, str, float, int | None]]:
    return [(o.candidate.number, o.status, o.fitness, o.source) for o in outcomes]


def test_a_later_candidate_waits_for_all_before_it() -> None:
    first, second = group = candidates(A, B)
    decisions = Decisions(group, Archive(), None)
    decisions.screened(second, screening(second, "k"))
    assert list(decisions.advance()) == []
    assert list(decisions.to_train) == []
    decisions.screened(first, screening(first, "k"))
    assert list(decisions.advance()) == []  # the second one follows the first
    assert list(decisions.to_train) == [first]
    assert decisions.all_decided
    assert not decisions.finished
    found = list(decisions.trained(first, [Training((0.25,), 1.0), Training((0.75,), 2.0)]))
    assert rows(found) == [(0, "evaluated", 0.5, None), (1, "equivalent", 0.5, 0)]
    assert found[0].seconds == StageSeconds(training=3.0)
    assert decisions.finished


def test_identity_is_what_the_candidate_says_not_its_loss() -> None:
    loss = new_candidate(0, A).loss
    one, other, again = (Candidate(i, 0, loss, name) for i, name in enumerate(["p", "q", "p"]))
    decisions = Decisions([one, other, again], Archive(), None)
    assert decisions.new == [one, other]


def test_an_earlier_generation_hands_over_at_once() -> None:
    archive = Archive()
    (before,) = candidates(A)
    archive.add(new_outcome(before, 0.5, "evaluated", gradient_key="k"))
    _, alike, other = group = candidates(A, B, C, first=1, generation=1)
    decisions = Decisions(group, archive, None)
    assert decisions.new == [alike, other]
    assert rows(list(decisions.advance())) == [(1, "duplicate", 0.5, 0)]
    decisions.screened(alike, screening(alike, "k"))
    assert rows(list(decisions.advance())) == [(2, "equivalent", 0.5, 0)]
    decisions.screened(other, screening(other, "other"))
    assert list(decisions.advance()) == []
    assert list(decisions.to_train) == [other]


def test_failures_say_why_and_are_handed_over() -> None:
    first, _, second = group = candidates(A, A, B)
    decisions = Decisions(group, Archive(), None)
    decisions.screened(first, Failure("its screening was given up"))
    found = list(decisions.advance())
    assert rows(found) == [(0, "failed", INF, None), (1, "duplicate", INF, 0)]
    assert found[0].reason == "its screening was given up"
    decisions.screened(second, screening(second))
    assert list(decisions.advance()) == []
    (outcome,) = decisions.trained(second, [Training((0.5,), 1.0), Failure("it ran late")])
    assert (outcome.status, outcome.fitness, outcome.reason) == ("failed", INF, "it ran late")


def test_a_training_that_is_stopped_at_a_rung_is_halted_and_so_is_who_takes_it_over() -> None:
    first, _ = group = candidates(A, A)
    decisions = Decisions(group, Archive(), 8)
    decisions.screened(first, screening(first))
    assert list(decisions.advance()) == []
    found = list(decisions.trained(first, [Training((0.5,), 1.0)]))  # of three values
    assert [(o.status, o.halted) for o in found] == [("halted", True), ("duplicate", True)]
    assert found[0].curves == ((0.5,),)


def test_the_task_loss_is_trained_and_never_screened() -> None:
    (only,) = group = candidates(None)
    decisions = Decisions(group, Archive(), None)
    assert decisions.new == []
    assert list(decisions.advance()) == []
    assert list(decisions.to_train) == [only]


@pytest.mark.parametrize("finished", [0, 1, 3, 5])
def test_the_order_of_results_and_what_is_finished_change_nothing(finished: int) -> None:
    texts = [A, B, A, C, "square(f)", B, "sub(f, y)", "mul(f, f)"]
    keys = {A: "k", B: "l", C: "k", "square(f)": None, "sub(f, y)": "l", "mul(f, f)": "m"}
    fitness = {A: 0.5, B: 0.25, C: 1.0, "square(f)": INF, "sub(f, y)": 2.0, "mul(f, f)": 0.125}
    group = candidates(*texts)
    of = {candidate.number: text for candidate, text in zip(group, texts, strict=True)}
    expected: list[Outcome] = []
    for order in range(40):
        rng = np.random.default_rng(order)
        known = expected[:finished]
        archive = Archive()
        for outcome in known:
            archive.add(outcome)
        decisions = Decisions(group, archive, None, known)
        found = list(known)
        waiting = [c for c in decisions.new if c.number not in decisions.outcomes]
        while not decisions.finished:
            step = list(decisions.advance())
            if waiting and (not decisions.to_train or rng.random() < 0.5):
                candidate = waiting.pop(int(rng.integers(len(waiting))))
                decisions.screened(candidate, screening(candidate, keys[of[candidate.number]]))
            elif decisions.to_train:
                place = int(rng.integers(len(decisions.to_train)))
                candidate = decisions.to_train[place]
                del decisions.to_train[place]
                result = Training((fitness[of[candidate.number]],), 0)
                step += decisions.trained(candidate, [result])
            for outcome in step:
                found.append(outcome)
                if order % 2:  # whoever drives it may tell the archive at once
                    archive.add(outcome)
        found.sort(key=lambda outcome: outcome.candidate.number)
        expected = expected or found
        assert rows(found) == rows(expected)
    assert rows(expected) == [
        (0, "evaluated", 0.5, None),
        (1, "evaluated", 0.25, None),
        (2, "duplicate", 0.5, 0),
        (3, "equivalent", 0.5, 0),
        (4, "diverged", INF, None),
        (5, "duplicate", 0.25, 1),
        (6, "equivalent", 0.25, 1),
        (7, "evaluated", 0.125, None),
    ]
