"""The queue of a generation: filters in population order, on any number of workers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from evomal.expressions.operators import correct, half_and_half
from evomal.losses.form import Form
from evomal.losses.symbolic import SymbolicLoss
from evomal.methods.base import Archive, Candidate, Method, Outcome
from evomal.methods.registry import METHODS
from evomal.runs import dispatch
from evomal.runs.dispatch import Dispatcher
from evomal.runs.execution import Execution, SearchStopped
from evomal.runs.executors import WorkError
from evomal.runs.queue import CHECKPOINT_SECONDS, GenerationQueue
from evomal.runs.scale import Scale
from run_helpers import (
    Fate,
    ShuffledExecutor,
    new_candidate,
    new_outcome,
    tiny_settings,
    tiny_settings_of,
)

INF = math.inf
Generations = Sequence[Sequence[str | None]]
Row = tuple[int, str, float, int | None, str | None]
Run = Callable[..., tuple[list[list[Row]], ShuffledExecutor]]


DIED = WorkError("its worker died")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run generations of expressions on a stand-in executor."""

    def run(
        generations: Generations,
        fates: Mapping[str, Fate],
        workers: int = 1,
        seed: int = 0,
        method: str = "evomal",
        tasks: int = 1,
        finished: Mapping[int, Sequence[Outcome]] = MappingProxyType({}),
        keep: list[Outcome] | None = None,
        group: int | None = 1,
        engine: str = "batched",
        halving: bool = False,
    ) -> tuple[list[list[Row]], ShuffledExecutor]:
        by_key = {SymbolicLoss(text).structure: fate for text, fate in fates.items()}
        executor = ShuffledExecutor(by_key, workers, seed)
        monkeypatch.setattr(dispatch, "wait", executor.wait)
        grouped = {} if group == 1 else {"engine": engine, "group_size": group}
        settings = tiny_settings_of(method, halving=halving, **grouped)
        searcher = METHODS[method](settings, Form("identity"), 7)
        rows: list[list[Row]] = []
        for candidates in as_candidates(generations):
            dispatcher = Dispatcher(executor, Execution())
            known = finished.get(len(rows), ())
            outcomes = list(known)
            for outcome in known:
                searcher.archive.add(outcome)
            queue = GenerationQueue(searcher, candidates, dispatcher, tasks, known)
            for outcome in queue.outcomes():
                searcher.archive.add(outcome)
                outcomes.append(outcome)
            assert len(outcomes) == len(candidates)
            if keep is not None:
                keep.extend(outcomes)
            rows.append(sorted(map(as_row, outcomes)))
            check_losses(outcomes, searcher.archive)
        return rows, executor

    return run


def as_candidates(generations: Generations) -> list[list[Candidate]]:
    number = 0
    result = []
    for generation, texts in enumerate(generations):
        result.append([new_candidate(number + i, t, generation) for i, t in enumerate(texts)])
        number += len(texts)
    return result


def as_row(outcome: Outcome) -> Row:
    candidate = outcome.candidate
    key = outcome.gradient_key
    return candidate.number, outcome.status, outcome.fitness, outcome.source, key


def check_losses(outcomes: Sequence[Outcome], archive: Archive) -> None:
    """Every outcome has the screened weights; a duplicate those of the one it equals."""
    for outcome in outcomes:
        if outcome.candidate.loss is None:
            assert outcome.loss is None
            continue
        assert outcome.loss is not None
        equal = archive.find(outcome.candidate)
        assert equal is not None
        assert bool((outcome.loss.phi == 2.0).all()) or equal.status == "failed"
        assert outcome.loss.structure == outcome.candidate.identity
        if outcome.status == "duplicate":
            assert outcome.loss is equal.loss
            assert outcome.source == equal.candidate.number


def one_after_another(
    generations: Generations, fates: Mapping[str, Fate], halving: bool = False
) -> list[list[Row]]:
    """What METHOD.md says, without any concurrency.

    With halving, a loss is as good at its two rungs as at the end, and halted if it is above the
    median, of the last five trained in earlier generations, of those that came to that rung.
    """
    by_key = {SymbolicLoss(text).structure: fate for text, fate in fates.items()}
    archive = Archive()
    rows: list[list[Row]] = []
    trained: list[tuple[float, int]] = []  # and the number of rungs passed
    for candidates in as_candidates(generations):
        rows.append([])
        at_rungs = [[v for v, passed in trained[-5:] if passed >= rung] for rung in range(2)]
        bars = [statistics.median(values) if values and halving else INF for values in at_rungs]
        for candidate in candidates:
            fate = by_key[candidate.identity]
            key = fate.gradient_key if fate.verdict == "promising" else None
            equal = archive.find(candidate)
            alike = None if key is None else archive.find_gradient(key)
            if equal is not None:
                number = equal.candidate.number
                outcome = new_outcome(candidate, equal.fitness, "duplicate", source=number)
            elif fate.verdict != "promising":
                outcome = new_outcome(candidate, INF, fate.verdict)
            elif alike is not None:
                number = alike.candidate.number
                outcome = new_outcome(
                    candidate, alike.fitness, "equivalent", source=number, gradient_key=key
                )
            else:
                status: Any = "evaluated" if math.isfinite(fate.fitness) else "diverged"
                if fate.fitness < INF:
                    passed = next((i for i in range(2) if fate.fitness > bars[i]), 2)
                    trained.append((fate.fitness, passed))
                    status = "evaluated" if passed == 2 else "halted"
                outcome = new_outcome(candidate, fate.fitness, status, gradient_key=key)
            archive.add(outcome)
            rows[-1].append(as_row(outcome))
    return rows


def random_world(seed: int) -> tuple[list[list[str]], dict[str, Fate]]:
    """Three generations of a small set of expressions, with fates that meet every filter."""
    rng = np.random.default_rng(seed)

    def pick(values: Sequence[Any]) -> Any:
        return values[int(rng.integers(len(values)))]

    pool = [str(correct(rng, half_and_half(rng, 0, 1))) for _ in range(20)]
    fates = {
        SymbolicLoss(text).structure: Fate(
            pick(["promising"] * 6 + ["rejected", "diverged"]),
            pick(["a", "b", "c", "d", None]),
            pick([0.25, 0.5, 0.75, INF]),
        )
        for text in pool
    }
    return [[pick(pool) for _ in range(8)] for _ in range(3)], fates


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_outcomes_do_not_depend_on_workers_or_on_what_finishes_first(
    run: Run, workers: int
) -> None:
    seen = set()
    for seed in range(60):
        generations, fates = random_world(seed)
        expected = one_after_another(generations, fates)
        texts = [text for generation in generations for text in generation]
        keys = [SymbolicLoss(text).structure for text in texts]
        statuses = [status for generation in expected for _, status, *_ in generation]
        new = [key for key, status in zip(keys, statuses, strict=True) if status != "duplicate"]
        promising = [
            key
            for key, status in zip(keys, statuses, strict=True)
            if status == "evaluated" or (status == "diverged" and fates[key].verdict == "promising")
        ]
        for order in range(min(workers, 3)):
            rows, executor = run(generations, fates, workers, order)
            assert rows == expected
            assert sorted(executor.screened) == sorted(new)
            assert sorted(executor.trained) == sorted(promising)
        seen |= set(statuses)
    assert seen == {"evaluated", "duplicate", "rejected", "equivalent", "diverged"}


@pytest.mark.parametrize("engine", ["batched", "stacked"])
@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_halted_does_not_depend_on_workers_or_on_what_is_finished(
    run: Run, workers: int, engine: str
) -> None:
    seen = set()
    for seed in range(40):
        generations, fates = random_world(seed)
        expected = one_after_another(generations, fates, halving=True)
        kept: list[Outcome] = []
        options: dict[str, Any] = {"group": 3, "engine": engine, "halving": True}
        assert run(generations, fates, workers, seed, keep=kept, **options)[0] == expected
        by_number = {outcome.candidate.number: outcome for outcome in kept}
        for outcome in kept:
            if outcome.source is None:
                assert outcome.halted is (outcome.status == "halted")
            else:
                assert outcome.halted is by_number[outcome.source].halted
        worked_on = [outcome for outcome in kept if outcome.source is None]
        halves = {i: [o for o in worked_on if o.candidate.generation == i][::2] for i in range(3)}
        assert run(generations, fates, workers, finished=halves, **options)[0] == expected
        seen |= {status for generation in expected for _, status, *_ in generation}
    assert "halted" in seen


A, B, C = "add(y, f)", "sub(y, f)", "mul(y, f)"
EQUAL_TO_A = "add(f, y)"
OK = Fate(fitness=0.5)

CASES: dict[str, tuple[Generations, dict[str, Fate], list[Any], list[str]]] = {
    "nothing in common": (
        [[A, B]],
        {A: Fate(fitness=0.5, gradient_key="a"), B: Fate(fitness=0.25, gradient_key="b")},
        [("evaluated", 0.5, None), ("evaluated", 0.25, None)],
        [A, B],
    ),
    "duplicate within a generation": (
        [[A, EQUAL_TO_A, A]],
        {A: OK},
        [("evaluated", 0.5, None), ("duplicate", 0.5, 0), ("duplicate", 0.5, 0)],
        [A],
    ),
    "duplicate across generations": (
        [[B, A], [EQUAL_TO_A], [A]],
        {A: OK, B: OK},
        [("evaluated", 0.5, None)] * 2 + [("duplicate", 0.5, 1)] * 2,
        [B, A],
    ),
    "order counts where it has a meaning": (
        [[B, "sub(f, y)"]],
        {B: OK, "sub(f, y)": OK},
        [("evaluated", 0.5, None)] * 2,
        [B, "sub(f, y)"],
    ),
    "rejected, and a duplicate of it": (
        [[A, EQUAL_TO_A], [A]],
        {A: Fate("rejected", "a")},
        [("rejected", INF, None), ("duplicate", INF, 0), ("duplicate", INF, 0)],
        [],
    ),
    "rejected passes no gradients on": (
        [[A, B]],
        {A: Fate("rejected", "a"), B: Fate(fitness=0.5, gradient_key="a")},
        [("rejected", INF, None), ("evaluated", 0.5, None)],
        [B],
    ),
    "diverged in screening, and a duplicate of it": (
        [[A, EQUAL_TO_A, B]],
        {A: Fate("diverged", "a"), B: Fate(fitness=0.5, gradient_key="a")},
        [("diverged", INF, None), ("duplicate", INF, 0), ("evaluated", 0.5, None)],
        [B],
    ),
    "equal gradients within a generation": (
        [[A, B, C]],
        {text: Fate("promising", "a", fitness) for text, fitness in [(A, 0.5), (B, 0.1), (C, 0)]},
        [("evaluated", 0.5, None), ("equivalent", 0.5, 0), ("equivalent", 0.5, 0)],
        [A],
    ),
    "equal gradients across generations": (
        [[A], [B], [C, "abs(sub(y, f))"]],
        {
            **{text: Fate("promising", "a", fitness) for text, fitness in [(A, 0.5), (B, 0.1)]},
            C: Fate("promising", "b", 0.75),
            "abs(sub(y, f))": Fate("promising", "a", 0.1),
        },
        [
            ("evaluated", 0.5, None),
            ("equivalent", 0.5, 0),
            ("evaluated", 0.75, None),
            ("equivalent", 0.5, 0),
        ],
        [A, C],
    ),
    "no gradient key, no equivalence": (
        [[A, B], [C]],
        {A: OK, B: OK, C: OK},
        [("evaluated", 0.5, None)] * 3,
        [A, B, C],
    ),
    "diverged in training, with equivalents and a duplicate": (
        [[A, B, EQUAL_TO_A], [C]],
        {text: Fate("promising", "a", fitness) for text, fitness in [(A, INF), (B, 0.1), (C, 0)]},
        [
            ("diverged", INF, None),
            ("equivalent", INF, 0),
            ("duplicate", INF, 0),
            ("equivalent", INF, 0),
        ],
        [A],
    ),
    "duplicate of an equivalent": (
        [[B, A, EQUAL_TO_A], [EQUAL_TO_A]],
        {text: Fate("promising", "a", fitness) for text, fitness in [(B, 0.5), (A, 0.1)]},
        [
            ("evaluated", 0.5, None),
            ("equivalent", 0.5, 0),
            ("duplicate", 0.5, 1),
            ("duplicate", 0.5, 1),
        ],
        [B],
    ),
}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_filters_decide_as_the_method_says(run: Run, case: str, workers: int) -> None:
    generations, fates, expected, trained = CASES[case]
    for seed in range(6):
        rows, executor = run(generations, fates, workers, seed)
        found = [(status, fitness, source) for row in rows for _, status, fitness, source, _ in row]
        assert found == expected
        assert sorted(executor.trained) == sorted(SymbolicLoss(text).structure for text in trained)
        texts = {SymbolicLoss(text).structure for row in generations for text in row if text}
        assert sorted(executor.screened) == sorted(texts)


def test_the_task_loss_is_trained_without_screening(run: Run) -> None:
    rows, executor = run([[None], [None]], {}, method="baseline")
    assert rows == [[(0, "evaluated", 1.0, None, None)], [(1, "duplicate", 1.0, 0, None)]]
    assert executor.trained == ["task loss"]
    assert executor.screened == []


@pytest.mark.parametrize("name", [name for name in METHODS if name != "baseline"])
def test_work_is_told_what_the_method_wants(run: Run, name: str) -> None:
    _, executor = run([[A]], {A: OK}, method=name)
    screening, training = executor.arguments
    method = METHODS[name]
    assert screening == (method.pipeline, None, CHECKPOINT_SECONDS, ())
    assert training == (0, None, ())


def test_what_screening_found_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = ShuffledExecutor({SymbolicLoss(A).structure: Fate("promising", "a", 0.5)}, 1, 0)
    monkeypatch.setattr(dispatch, "wait", executor.wait)
    method = METHODS["evomal"](tiny_settings(), Form("identity"), 0)
    dispatcher = Dispatcher(executor, Execution())
    (outcome,) = GenerationQueue(method, [new_candidate(0, A)], dispatcher).outcomes()
    assert (outcome.correlation, outcome.gradient_key) == (0.5, "a")
    assert (outcome.seconds.tuning, outcome.seconds.training) == (1.0, 0.0)


def test_no_candidates_give_no_outcomes(run: Run) -> None:
    assert run([[], [A], []], {A: OK})[0] == [[], [(0, "evaluated", 0.5, None, None)], []]


@pytest.mark.parametrize("engine", ["batched", "stacked"])
@pytest.mark.parametrize("group", [2, 3, None])
@pytest.mark.parametrize("workers", [1, 3])
def test_groups_decide_as_single_candidates_do(
    run: Run, workers: int, group: int | None, engine: str
) -> None:
    for seed in range(20):
        generations, fates = random_world(seed)
        singly, one = run(generations, fates, workers, seed)
        together, other = run(generations, fates, workers, seed, group=group, engine=engine)
        assert together == singly
        assert sorted(other.screened) == sorted(one.screened)
        assert all(len(keys) <= (group or 99) for keys in other.groups)


def test_the_last_groups_on_cpus_are_smaller(run: Run) -> None:
    texts = [f"mul({'square(' * n}sub(y, f){')' * n}, f)" for n in range(25)]
    _, executor = run([texts], {}, group=4)
    assert [len(keys) for keys in executor.groups] == [4, 4, 4, 4, 3, 2, 2, 1, 1]
    _, executor = run([texts], {}, group=4, engine="stacked")
    assert [len(keys) for keys in executor.groups] == [4] * 6 + [1]


def test_a_training_group_is_the_same_whatever_of_it_is_finished(run: Run) -> None:
    options: dict[str, Any] = {"group": 3, "engine": "stacked"}
    for seed in range(10):
        generations, fates = random_world(seed)
        outcomes: list[Outcome] = []
        rows, executor = run(generations[:1], fates, seed=seed, keep=outcomes, **options)
        for done in range(len(outcomes) + 1):
            known = {0: outcomes[:done]}
            again, other = run(generations[:1], fates, 2, seed, finished=known, **options)
            assert again == rows
            trained = {
                o.candidate.identity for o in outcomes[:done] if o.seconds.training is not None
            }
            assert {*executor.trained_groups} - {*other.trained_groups} == {
                keys for keys in executor.trained_groups if trained.issuperset(keys)
            }
            assert {*other.trained_groups} <= {*executor.trained_groups}


def test_a_group_is_the_same_whatever_of_it_is_finished(run: Run) -> None:
    for seed in range(10):
        generations, fates = random_world(seed)
        outcomes: list[Outcome] = []
        rows, executor = run(generations[:1], fates, seed=seed, keep=outcomes, group=3)
        for done in range(len(outcomes) + 1):
            known = {0: outcomes[:done]}
            again, other = run(generations[:1], fates, 2, seed, finished=known, group=3)
            assert again == rows
            assert {*other.groups} <= {*executor.groups}
            known_keys = {o.candidate.identity for o in outcomes[:done]}
            assert {*executor.groups} - {*other.groups} == {
                keys for keys in executor.groups if known_keys.issuperset(keys)
            }


def test_a_group_that_fails_twice_is_tried_singly(run: Run) -> None:
    fates = {
        A: Fate("promising", "a", 0.5, {"screening": [DIED] * 2}),
        B: Fate("promising", "b", 0.25, {"screening": [DIED] * 4}),
        C: Fate("promising", "c", 0.1),
    }
    rows, executor = run([[A, B, C]], fates, group=None, engine="stacked")
    keys = [SymbolicLoss(text).structure for text in (A, B, C)]
    assert executor.groups[:2] == [tuple(keys)] * 2
    assert sorted(executor.groups[2:]) == sorted(
        (key,) for key in (keys[0], *keys[1:2] * 2, keys[2])
    )
    assert [row[1] for row in rows[0]] == ["evaluated", "failed", "evaluated"]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_generation_is_taken_up_wherever_it_was_left(run: Run, workers: int) -> None:
    for seed in range(20):
        generations, fates = random_world(seed)
        outcomes: list[Outcome] = []
        rows, _ = run(generations, fates, workers, seed, keep=outcomes)
        for at in range(3):
            last = [o for o in outcomes if o.candidate.generation == at]
            for done in range(len(last) + 1):  # in the order in which they were finished
                known = {
                    **{g: [o for o in outcomes if o.candidate.generation == g] for g in range(at)},
                    at: last[:done],
                }
                again, executor = run(generations[: at + 1], fates, workers, seed, finished=known)
                assert again == rows[: at + 1]
                finished = {o.candidate.identity for o in last[:done] if o.status != "duplicate"}
                assert not finished & {*executor.screened, *executor.trained}


@pytest.mark.parametrize("workers", [1, 4])
def test_several_tasks_are_trained_on_one_by_one(run: Run, workers: int) -> None:
    fates = {A: Fate(fitness=0.5, gradient_key="a"), B: Fate(fitness=INF, gradient_key="b")}
    for seed in range(6):
        rows, executor = run([[A, B, A]], fates, workers, seed, tasks=3)
        assert [(status, fitness) for _, status, fitness, *_ in rows[0]] == [
            ("evaluated", (0.5 + 1.0 + 1.5) / 3),
            ("diverged", INF),
            ("duplicate", (0.5 + 1.0 + 1.5) / 3),
        ]
        assert sorted(executor.trained) == sorted(
            [SymbolicLoss(one).structure for one in (A, B)] * 3
        )


LOST = WorkError("its machine was lost", machine_lost=True)
FAULTS: dict[str, tuple[list[WorkError], bool]] = {
    "never": ([], False),
    "once": ([DIED], False),
    "twice": ([DIED, DIED], True),
    "machines lost do not count": ([LOST, DIED, LOST, LOST], False),
    "machines lost, and twice": ([LOST, DIED, LOST, DIED], True),
}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("stage", ["screening", "training"])
@pytest.mark.parametrize("case", FAULTS)
def test_work_is_tried_twice_and_the_run_goes_on(
    run: Run, case: str, stage: str, workers: int
) -> None:
    faults, fails = FAULTS[case]
    fates = {
        A: Fate("promising", "a", 0.5, {stage: faults}),
        B: Fate("promising", "b", 0.25),
        C: Fate("promising", "a", 0.1),
    }
    for seed in range(6):
        outcomes: list[Outcome] = []
        rows, executor = run([[A, B, EQUAL_TO_A, C], [A]], fates, workers, seed, keep=outcomes)
        found = [(status, fitness, source) for row in rows for _, status, fitness, source, _ in row]
        first = ("failed", INF, None) if fails else ("evaluated", 0.5, None)
        # without its screening, nobody knows the gradients of a failed candidate
        alike = ("evaluated", 0.1, None) if fails and stage == "screening" else None
        expected = [first, ("evaluated", 0.25, None), ("duplicate", first[1], 0)]
        expected += [alike or ("equivalent", first[1], 0), ("duplicate", first[1], 0)]
        assert found == expected
        reasons = {o.candidate.number: o.reason for o in outcomes if o.reason}
        assert reasons == ({0: f"its {stage} was given up: its worker died"} if fails else {})
        done = executor.screened if stage == "screening" else executor.trained
        attempts = len(faults) + (not fails)
        assert done.count(SymbolicLoss(A).structure) == attempts


def run_until_stopped(queue: GenerationQueue, method: Method, dispatcher: Dispatcher) -> None:
    for outcome in queue.outcomes():
        method.archive.add(outcome)
        dispatcher.stop.check_archive(method.archive, Scale(["mse"], ["minimize"]))


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_more_is_trained_than_may_be_evaluated(
    most: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [A, B, C, "square(sub(y, f))"]
    fates = {SymbolicLoss(text).structure: Fate("promising", text, 0.5) for text in texts}
    fates[SymbolicLoss(B).structure] = Fate("promising", B, INF)
    for seed in range(6):
        executor = ShuffledExecutor(fates, workers, seed)
        monkeypatch.setattr(dispatch, "wait", executor.wait)
        method = METHODS["evomal"](tiny_settings(), Form("identity"), 0)
        dispatcher = Dispatcher(executor, Execution(max_evaluations=most))
        queue = GenerationQueue(method, as_candidates([texts])[0], dispatcher)
        with pytest.raises(SearchStopped, match=f"max_evaluations of {most} reached"):
            run_until_stopped(queue, method, dispatcher)
        evaluated = [o.candidate.number for o in method.archive.hall_of_fame.values()]
        assert method.archive.counts["evaluated"] == most
        assert 1 not in evaluated
        expected = {1: [A], 2: [A, B, C], 3: [A, B, C, "square(sub(y, f))"]}[most]
        assert sorted(executor.trained) == sorted(SymbolicLoss(text).structure for text in expected)
