"""Before and after the generations of a search: the recipe, the confirmation and the verdict."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from evomal import Run, SearchInterrupted, Task, TaskWarning, load_loss, resume, search
from evomal.cli.tables import next_step, run_overview
from evomal.losses.names import BEST_LOSS
from evomal.losses.symbolic import SymbolicLoss
from evomal.runs.confirmation import (
    FACTORS,
    FINALISTS,
    RECIPES,
    SELECTION_SEEDS,
    VERDICT_SEEDS,
    confirm,
    trainings_needed,
)
from evomal.runs.known_losses import known_losses, other_losses
from evomal.runs.next_steps import to_train
from evomal.runs.recipe import SEEDS, find_recipes
from evomal.runs.retrainings import TASK_LOSS, Contender, Wanted
from evomal.runs.scale import Scale
from evomal.training.learning import RATES
from evomal.training.retraining import Retrained, Retraining
from evomal.training.tuning import CHECKPOINTS
from run_helpers import TINY, Recorder, without_timing
from tasks_for_tests import classification_task, regression_task

pytestmark = pytest.mark.usefixtures("instant_formulas")

SQUARED, ABSOLUTE = SymbolicLoss("square(sub(y, f))"), SymbolicLoss("abs(sub(y, f))")
LOWER, HIGHER = Scale(["mean_squared_error"], ["minimize"]), Scale(["accuracy"], ["maximize"])
CONFIRMED: dict[str, Any] = {**TINY, "seed": 7, "generations": 2, "tune_recipe": True, "confirm": 2}


class Trainings:
    """Trainings whose results are known: the best value of every loss, at a factor and steps."""

    def __init__(self, values: dict[str, tuple[float, float, int]], spread: float = 0.0) -> None:
        self.values = values
        self.spread = spread
        self.asked: list[tuple[str, str, int, float]] = []

    def __call__(self, wanted: Sequence[Wanted]) -> list[Retrained]:
        return [self._result(*one) for one in wanted]

    def _result(self, one: Contender, task: int, todo: Retraining) -> Retrained:
        self.asked.append((one.name, todo.stage, todo.seed, todo.factor))
        value, factor, steps = self.values[one.name]
        if math.isinf(value):
            return Retrained((), todo.factor)
        off = abs(math.log(todo.factor / factor))
        curve = (
            value + off + abs(step - steps) / 100 + self.spread * todo.seed + task
            for step in todo.checkpoints
        )
        return Retrained(tuple(curve), 2 * todo.factor)


# The recipe


def test_the_recipe_is_the_best_mean_of_the_task_loss() -> None:
    trainings = Trainings({TASK_LOSS: (0.5, 3.0, 40)})
    (recipe,) = find_recipes(trainings, [0.01], 40)
    assert recipe.factor == 3.0
    assert recipe.learning_rate == pytest.approx(0.03)
    assert recipe.fitness == pytest.approx(0.5)
    assert set(recipe.tried) == {f"{factor:g}" for factor in RATES}
    assert len(trainings.asked) == SEEDS * len(RATES)


def test_the_recipe_is_looked_for_beyond_the_grid() -> None:
    (recipe,) = find_recipes(Trainings({TASK_LOSS: (0.5, 100.0, 40)}), [0.01], 40)
    assert recipe.factor == 100.0


def test_a_task_loss_that_always_diverges_has_no_recipe() -> None:
    (recipe,) = find_recipes(Trainings({TASK_LOSS: (math.inf, 1.0, 1)}), [0.01], 40)
    assert (recipe.factor, recipe.fitness) == (1.0, None)
    assert set(recipe.tried.values()) == {None}


def test_a_rate_at_which_one_seed_diverges_is_out() -> None:
    def trainings(wanted: Sequence[Wanted]) -> list[Retrained]:
        return [
            Retrained((), todo.factor)
            if (todo.seed, todo.factor) == (1, 10.0)
            else Retrained((1 / todo.factor,), todo.factor)
            for _, _, todo in wanted
        ]

    (recipe,) = find_recipes(trainings, [1.0], 10)
    assert recipe.factor == 3.0
    assert recipe.tried["10"] is None


# The confirmation


def contenders(*names: str) -> list[Contender]:
    return [Contender(name, SQUARED) for name in names]


def test_the_best_after_tuning_wins() -> None:
    values = {
        "a": (0.4, 3.0, 60),
        "b": (0.3, 0.3, 100),
        "c": (0.9, 1.0, 100),
        "d": (0.6, 1.0, 100),
        "e": (math.inf, 1.0, 100),
        TASK_LOSS: (0.5, 1.0, 20),
    }
    trainings = Trainings(values)
    found = confirm(trainings, contenders("a", "b", "c", "d", "e"), [0.1], 100)
    assert found.winner == "b"
    assert [entry.name for entry in found.entries] == ["b", "a", TASK_LOSS, "d", "c", "e"]
    b, own = found.entry("b"), found.entry(TASK_LOSS)
    assert b.recipes is not None
    assert own.recipes is not None
    assert [recipe.steps for recipe in (*b.recipes, *own.recipes)] == [100, 20]
    assert b.recipes[0].learning_rate == pytest.approx(0.06)
    assert own.recipes[0].learning_rate == pytest.approx(0.2)
    assert b.mean == pytest.approx(0.3)
    assert b.error == 0.0
    assert found.entry("c").recipes is None
    assert found.entry("e").first is None
    assert found.verdict is not None
    assert (found.verdict.wins, found.verdict.seeds) == (VERDICT_SEEDS, VERDICT_SEEDS)
    assert found.verdict.difference == pytest.approx(-0.2)
    rounds = [(stage, seed) for _, stage, seed, _ in trainings.asked]
    everyone, finalists = len(values), FINALISTS + 1
    assert len(rounds) == trainings_needed(len(values) - 1)
    assert rounds.count(("tuning", 0)) == everyone * len(FACTORS)
    assert rounds.count(("tuning", 1)) == finalists * len(FACTORS)
    assert rounds.count(("selection", SELECTION_SEEDS - 1)) == RECIPES * finalists
    assert rounds.count(("verdict", VERDICT_SEEDS - 1)) == 2


def test_of_equal_means_the_stable_loss_wins() -> None:
    def trainings(wanted: Sequence[Wanted]) -> list[Retrained]:
        spread = {"wild": 0.3, "calm": 0.1, TASK_LOSS: 0.1}
        return [
            Retrained((0.5 + spread[one.name] * (todo.seed % 3 - 1),) * CHECKPOINTS, 1.0)
            for one, _, todo in wanted
        ]

    found = confirm(trainings, contenders("wild", "calm"), [0.1], 50)
    assert found.winner == "calm"


def test_values_are_means_over_the_tasks() -> None:
    found = confirm(
        Trainings({"a": (0.4, 1, 50), TASK_LOSS: (0.5, 1, 50)}), contenders("a"), [1, 2], 50
    )
    entry = found.entry("a")
    assert entry.mean == pytest.approx(0.9)
    assert entry.recipes is not None
    assert [recipe.learning_rate for recipe in entry.recipes] == [2.0, 4.0]


def test_without_a_loss_that_converges_there_is_no_winner() -> None:
    found = confirm(
        Trainings({"a": (math.inf, 1, 1), TASK_LOSS: (1, 1, 1)}), contenders("a"), [1], 5
    )
    assert (found.winner, found.verdict) == (None, None)
    assert "use that" in found.sentence(LOWER)


def test_a_loss_is_better_than_a_task_loss_that_diverges() -> None:
    found = confirm(
        Trainings({"a": (1, 1, 1), TASK_LOSS: (math.inf, 1, 1)}), contenders("a"), [1], 5
    )
    assert found.verdict is not None
    assert found.verdict.better
    assert found.sentence(LOWER) == (
        "Better than the tuned task loss: better on 5 of 5 seeds, the task loss diverges, or has "
        "no metric, on 5."
    )


# In a search


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return search(regression_task(), run_dir=tmp_path_factory.mktemp("run") / "whole", **CONFIRMED)


def test_a_search_ends_with_a_verdict(confirmed: Run) -> None:
    found = confirmed.facts.confirmation
    assert found is not None
    assert found.winner is not None
    assert confirmed.verdict == found.sentence(confirmed.facts.scale)
    summary = confirmed.summary()
    assert summary["verdict"]["loss"] == found.winner
    assert summary["verdict"]["better"] is confirmed.beats_task_loss
    assert summary["best"]["expression"] == str(confirmed.best.expression)
    assert len(summary["recipes"]) == 1
    file = json.loads((confirmed.run_dir / BEST_LOSS).read_text())
    assert file["notes"]["verdict"] == summary["verdict"]
    best = load_loss(confirmed.run_dir / BEST_LOSS)
    assert isinstance(best, SymbolicLoss)
    assert torch.equal(best.phi, confirmed.best.loss.phi)
    names = [entry.name for entry in found.entries]
    assert TASK_LOSS in names
    assert {"huber:1", "pinball:0.9"} <= set(names)
    assert "squared-error" not in names, "it is the task loss"


def test_the_verdict_is_shown_even_where_nothing_is_learned(confirmed: Run) -> None:
    run = Run(confirmed.run_dir)
    run.facts = replace(run.facts, constant_fitness=-1.0)
    console = Console(file=io.StringIO(), width=1000)
    console.print(run_overview(run))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Not even the task loss predicts better" in output
    assert run.verdict is not None
    assert run.verdict in output


def test_the_next_step_tunes_as_the_verdict_did(confirmed: Run) -> None:
    steps = confirmed.facts.confirmation_steps
    assert to_train("r", confirmed.facts.tasks, steps) == (
        "evomal.compare(task, evomal.Run('r').best.loss, seeds=range(5), "
        f'tune=["learning-rate", "steps"], steps={steps}) in Python'
    )
    assert (next_step(confirmed) is None) is not confirmed.beats_task_loss


def test_the_search_runs_at_the_recipe(confirmed: Run, tmp_path: Path) -> None:
    (recipe,) = confirmed.facts.recipes
    task = regression_task()
    task = regression_task(optimizer=task.optimizer.with_learning_rate(recipe.learning_rate))
    plain = search(task, run_dir=tmp_path, **{**TINY, "seed": 7, "generations": 2})
    assert plain.task_loss_fitness == confirmed.task_loss_fitness
    assert [o.fitness for o in plain.outcomes] == [o.fitness for o in confirmed.outcomes]


class Stop(Recorder):
    """Interrupts a run after so many trainings of a stage."""

    def __init__(self, stage: str, at: int) -> None:
        super().__init__()
        self.stage, self.left = stage, at

    def on_retraining(self, method: Any, stage: str, done: int, total: int) -> None:
        self.left -= stage == self.stage
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("stage", "at", "workers"),
    [("tuning the task loss", 5, 1), ("confirming the best losses", 20, 2)],
)
def test_an_interrupted_stage_goes_on(
    stage: str, at: int, workers: int, confirmed: Run, tmp_path: Path
) -> None:
    with pytest.raises(SearchInterrupted):
        search(regression_task(), run_dir=tmp_path, callbacks=[Stop(stage, at)], **CONFIRMED)
    run = resume(tmp_path, regression_task(), workers=workers)
    summaries = [without_timing(one.summary()) for one in (run, confirmed)]
    assert summaries[0] == summaries[1]
    assert (tmp_path / BEST_LOSS).read_text() == (confirmed.run_dir / BEST_LOSS).read_text()


def test_more_generations_are_confirmed_again(tmp_path: Path) -> None:
    given = {**CONFIRMED, "generations": 1}
    first = search(regression_task(), run_dir=tmp_path / "short", **given)
    more = resume(tmp_path / "short", regression_task(), generations=2)
    whole = search(regression_task(), run_dir=tmp_path / "long", **{**given, "generations": 2})
    assert first.facts.confirmation is not None
    assert more.facts.confirmation == whole.facts.confirmation


def test_without_a_loss_there_is_nothing_to_confirm(tmp_path: Path) -> None:
    run = search(regression_task(), method="baseline", run_dir=tmp_path, confirm=2, testing_steps=5)
    assert (run.verdict, run.facts.confirmation) == (None, None)


def test_other_stop_conditions_end_with_a_verdict(tmp_path: Path) -> None:
    run = search(regression_task(), run_dir=tmp_path, max_evaluations=1, **CONFIRMED)
    assert (run.facts.status, run.facts.stop_reason) == ("stopped", "max_evaluations of 1 reached")
    assert run.verdict is not None
    whole = resume(tmp_path, regression_task())
    assert whole.facts.status == "finished"
    assert whole.facts.confirmation is not None
    assert whole.facts.confirmation != run.facts.confirmation


def test_a_task_that_cannot_be_learned_is_told_before_the_search(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    inputs, noise = torch.randn(520, 3, generator=rng), torch.randn(520, 1, generator=rng)
    parts = [(inputs[rows], noise[rows]) for rows in (slice(20), slice(20, None))]
    task = Task(lambda: torch.nn.Linear(3, 1), *parts, link="identity", name="noise")
    with pytest.warns(TaskWarning, match="Not even the task loss predicts better"):
        search(task, run_dir=tmp_path, **{**CONFIRMED, "max_evaluations": 1, "confirm": 0})


def test_the_task_loss_is_not_its_own_rival() -> None:
    plain, weighted = classification_task(), classification_task(weight=[1.0, 2.0, 3.0])
    for task in (plain, weighted):
        assert known_losses([task])[0] == "cross-entropy"
        assert "cross-entropy" not in other_losses([task])
    own = classification_task(task_loss=torch.nn.MultiMarginLoss())
    assert other_losses([own])[0] == "cross-entropy"
