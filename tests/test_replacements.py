"""Candidates that take the places of those without a training: rounds, resumed runs."""

from __future__ import annotations

import math
import shutil
import sqlite3
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evomal import InputError, Run, resume, search
from evomal.losses.form import Form
from evomal.losses.symbolic import SymbolicLoss
from evomal.methods.base import TRAINED, Candidate, Outcome
from evomal.methods.evolution import GeneticProgramming
from evomal.methods.registry import METHODS
from evomal.runs import driver
from evomal.runs.directory import DATABASE
from evomal.runs.queue import GenerationQueue
from evomal.runs.record import read_record, require_continuable
from evomal.runs.store import RunStore
from evomal.testing.ask_tell import Drive
from run_helpers import TINY, Recorder, known_to, new_outcome, tiny_settings_of, without_timing
from tasks_for_tests import regression_task

SEARCH: dict[str, Any] = {
    **TINY,
    "population_size": 5,
    "generations": 2,
    "replacements": 2,
    "seed": 2,
}


def new_gp(**settings: Any) -> GeneticProgramming:
    settings = {"replacements": 2, "population_size": 10, "generations": 3, **settings}
    method = METHODS["evomal"](tiny_settings_of("evomal", **settings), Form("identity"), 0)
    assert isinstance(method, GeneticProgramming)
    return method


def decided(gp: GeneticProgramming, asked: Sequence[Candidate], trained: int) -> list[Outcome]:
    """The first candidates are trained, with fitness 1, 2, …; the others rejected."""
    outcomes = [
        new_outcome(c, 1.0 + i) if i < trained else new_outcome(c, math.inf, "rejected")
        for i, c in enumerate(asked)
    ]
    for outcome in outcomes:
        gp.archive.add(outcome)
    return outcomes


def test_places_without_a_training_are_filled_in_rounds() -> None:
    gp = new_gp()
    outcomes = decided(gp, gp.ask(), trained=6)
    more = gp.ask_more(outcomes)
    assert [c.number for c in more] == [10, 11, 12, 13]
    assert {c.generation for c in more} == {0}
    outcomes += decided(gp, more, trained=3)
    last = gp.ask_more(outcomes)
    assert [c.number for c in last] == [14]
    outcomes += decided(gp, last, trained=0)
    assert gp.ask_more(outcomes) == [], "no more than the bound"
    gp.tell(outcomes)
    kept = [member.number for member in gp.population]
    assert kept == sorted(kept)
    assert len(kept) == 10
    assert {*range(6), 10, 11, 12} < set(kept), "those that were trained, and another one"
    outcomes = decided(gp, gp.ask(), trained=9)
    assert gp.ask_more(outcomes) == [], "nothing to replace"


def test_copies_leave_before_trained_losses() -> None:
    gp = new_gp(population_size=3, replacements=1)
    first, second, third = gp.ask()
    outcomes = [
        new_outcome(first, 3.0),
        new_outcome(second, 0.5, "equivalent", source=0),
        new_outcome(third, 2.0),
    ]
    (more,) = gp.ask_more(outcomes)
    gp.tell([*outcomes, new_outcome(more, 9.0)])
    assert [member.number for member in gp.population] == [0, 2, 3]


def test_what_was_seen_is_drawn_anew() -> None:
    gp, seen = new_gp(population_size=40, max_initial_height=2, generations=6), set[str]()
    repeated = 0
    while not gp.finished:
        candidates = gp.ask()
        own = [candidate.identity for candidate in candidates]
        repeated += len(own) - len(set(own) - seen)
        seen |= set(own)
        gp.tell(decided(gp, candidates, trained=len(own)))
    assert repeated <= 2
    assert len({c.identity for c in new_gp(population_size=40, max_initial_height=2).ask()}) == 40


def test_draws_end_where_nothing_else_is_left() -> None:
    gp = new_gp(population_size=8, crossover_rate=0.0, mutation_rate=0.0, generations=2)
    gp.tell(decided(gp, gp.ask(), trained=8))
    parents = {str(member.expression) for member in gp.population}
    losses = [candidate.loss for candidate in gp.ask()]
    assert {str(loss.expression) for loss in losses if isinstance(loss, SymbolicLoss)} <= parents


def test_given_losses_are_kept() -> None:
    text = "square(sub(y, f))"
    gp = new_gp(initial_losses=(text, text))
    found = [str(c.loss.expression) for c in gp.ask() if isinstance(c.loss, SymbolicLoss)]
    assert Counter(found)[text] == 2


@pytest.mark.parametrize("method", ["evomal", "gp-lfl", "glo"])
def test_methods_with_replacements_keep_their_contract(method: str) -> None:
    kind = METHODS[method]
    settings: dict[str, Any] = {"replacements": 1, "population_size": 8, "max_initial_height": 2}
    Drive(kind, tiny_settings_of(method, **settings)).check(draws=True)


# Whole runs


@pytest.fixture(autouse=True)
def _formulas(instant_formulas: None) -> None:
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return search(regression_task(), run_dir=tmp_path_factory.mktemp("whole"), **SEARCH)


def everything(run: Run) -> Any:
    outcomes = [
        (o.candidate.identity, o.candidate.generation, o.status, o.fitness, o.source)
        for o in run.outcomes
    ]
    return without_timing(run.summary()), outcomes


def rounds_of(run: Run) -> list[range]:
    """The numbers that were asked for together, from the statuses and the settings."""
    settings, found = run.facts.settings, []
    for generation in range(settings.generations):
        own = [o for o in run.outcomes if o.candidate.generation == generation]
        places = settings.population_size if generation == 0 else settings.offspring
        first, count = own[0].candidate.number, places
        while count:
            found.append(range(first, first + count))
            done = [o for o in own if o.candidate.number < first + count]
            first += count
            count = places - sum(o.status in TRAINED for o in done)
            count = count if first <= own[-1].candidate.number else 0
    return found


def test_a_run_asks_in_rounds(whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[range] = []

    class Noting(GenerationQueue):
        def __init__(self, method: Any, candidates: Any, *rest: Any, **more: Any) -> None:
            asked.append(range(candidates[0].number, candidates[-1].number + 1))
            super().__init__(method, candidates, *rest, **more)

    monkeypatch.setattr(driver, "GenerationQueue", Noting)
    run = search(regression_task(), run_dir=tmp_path, **SEARCH, workers=2)
    assert everything(run) == everything(whole)
    assert asked == rounds_of(whole)
    assert 2 < len(asked) <= 6
    assert len(whole.outcomes) > 5 + 4


def test_the_summary_says_how_many_new_losses_were_trained(whole: Run) -> None:
    trained = sum(outcome.status in TRAINED for outcome in whole.outcomes)
    assert whole.summary()["distinct"] == whole.distinct == trained / 2


def stopped(place: Path, at: int) -> Path:
    with pytest.raises(KeyboardInterrupt):
        search(regression_task(), run_dir=place, callbacks=[Recorder("candidate", at)], **SEARCH)
    return place


def test_a_run_that_is_stopped_anywhere_ends_as_the_whole_one(whole: Run, tmp_path: Path) -> None:
    for at in range(1, len(whole.outcomes) + 1, 2):
        place = stopped(tmp_path / str(at), at)
        again = resume(place, regression_task(), callbacks=[recorder := Recorder()])
        assert everything(again) == everything(whole)
        numbers = [value for name, value in recorder.calls if name == "candidate"]
        assert len(numbers) == len(whole.outcomes) - at, "a finished candidate comes again"


@pytest.mark.parametrize("method", ["evomal", "glo"])
def test_other_searches_with_all_settings_can_be_resumed(method: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"halving": True, "inherit_weights": True, "known_losses": True}
    sizes = {"population_size": 7, "generations": 3, "weight_mutation_rate": 0.05}
    arguments = known_to(method, {**SEARCH, **sizes, **more}) | {"method": method, "seed": 5}
    expected = search(regression_task(), run_dir=tmp_path / "whole", **arguments)
    count = len(expected.outcomes)
    for at in (count // 2, count - 2):
        place = tmp_path / str(at)
        stop = [Recorder("candidate", at)]
        with pytest.raises(KeyboardInterrupt):
            search(regression_task(), run_dir=place, callbacks=stop, **arguments)
        assert everything(resume(place, regression_task())) == everything(expected)


def middle_of_a_later_round(run: Run) -> tuple[range, range]:
    """A round of a generation with at least two candidates, and the one before."""
    rounds = rounds_of(run)
    generation = [run.outcomes[numbers[0]].candidate.generation for numbers in rounds]
    return next(
        (before, numbers)
        for before, numbers, one, other in zip(
            rounds, rounds[1:], generation, generation[1:], strict=False
        )
        if one == other and len(numbers) > 1
    )


def altered(run_dir: Path, *statements: str) -> Path:
    connection = sqlite3.connect(run_dir / DATABASE)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    return run_dir


FAILED = (
    "UPDATE candidates SET status = 'failed', fitness = NULL, gradient_key = NULL, "
    "source = NULL WHERE number = {}"
)


def test_only_failures_of_the_last_round_are_retried(whole: Run, tmp_path: Path) -> None:
    before, numbers = middle_of_a_later_round(whole)
    place = stopped(tmp_path / "run", numbers[1])  # numbers[0] is there, the next is not
    store = RunStore.open(place)
    record, state = read_record(store), store.last_state()
    assert require_continuable(record, state) == numbers[0]
    store.close()
    untrained = [n for n in before if whole.outcomes[n].status not in TRAINED]
    one = shutil.copytree(place, tmp_path / "early")
    altered(one, FAILED.format(untrained[-1]))
    resumed = resume(one, regression_task())
    assert resumed.outcomes[untrained[-1]].status == "failed"
    assert [o.candidate.identity for o in resumed.outcomes[: numbers[-1]]] == [
        o.candidate.identity for o in whole.outcomes[: numbers[-1]]
    ]
    altered(place, FAILED.format(numbers[0]))
    assert everything(resume(place, regression_task())) == everything(whole)


def test_candidates_that_no_round_asks_for_are_refused(whole: Run, tmp_path: Path) -> None:
    before, numbers = middle_of_a_later_round(whole)
    place = stopped(tmp_path / "run", numbers[1])
    absent = next(n for n in before if whole.outcomes[n].status not in TRAINED)
    altered(place, f"DELETE FROM candidates WHERE number = {absent}")
    with pytest.raises(InputError, match="is not the one that this evomal would propose"):
        resume(place, regression_task())
