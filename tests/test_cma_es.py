"""CMA-ES and the methods that search with it: taylorglo and glo."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cmaes import CMA

import evomal
from evomal import GLOSettings, InputError, SymbolicLoss, TaylorGLOSettings, TaylorLoss
from evomal.cli import main
from evomal.losses.form import Form
from evomal.losses.meta import MetaLoss
from evomal.methods.base import Candidate, Method
from evomal.methods.cma_es import CMAES, FEWEST_POINTS
from evomal.methods.glo import GLO
from evomal.methods.registry import METHODS
from evomal.methods.settings import SearchSettings
from evomal.methods.taylorglo import TaylorGLO
from evomal.runs.run import Run
from evomal.seeding import derive_seed
from run_helpers import new_outcome, without_timing
from tasks_for_tests import regression_task

FORM = Form("identity")
TAYLOR = TaylorGLOSettings(population_size=6, generations=6, testing_steps=5)
EVOLVED = GLOSettings(
    population_size=8,
    generations=6,
    structure_generations=3,
    structures=2,
    coefficient_population=4,
    testing_steps=5,
)
SETTINGS: dict[str, SearchSettings] = {"taylorglo": TAYLOR, "glo": EVOLVED}
each_method = pytest.mark.parametrize("name", SETTINGS)
Fitness = Callable[[MetaLoss], float]


def sphere(x: Sequence[float]) -> float:
    return float(np.square(np.asarray(x) - 0.3).sum())


def advance(method: Method, fitness: Fitness) -> list[Candidate]:
    """One generation; the fitness may be infinite."""
    candidates = method.ask()
    outcomes = []
    for candidate in candidates:
        assert candidate.loss is not None
        value = fitness(candidate.loss)
        status: Any = "evaluated" if math.isfinite(value) else "diverged"
        outcomes.append(new_outcome(candidate, value, status))
    for outcome in outcomes:
        method.archive.add(outcome)
    method.tell(outcomes)
    return candidates


def weights(candidates: Sequence[Candidate]) -> list[list[float]]:
    return [c.loss.phi.tolist() for c in candidates if c.loss is not None]


def on_sphere(loss: MetaLoss) -> float:
    return sphere(loss.phi.tolist())


def test_taylorglo_on_a_sphere_is_the_library_alone() -> None:
    method = TaylorGLO(TaylorGLOSettings(generations=30), FORM, 5)
    seed = derive_seed(5, "coefficients", 0) % 2**32
    alone = CMA(np.zeros(8), 1.2, seed=seed, population_size=25)
    best = math.inf
    while not method.finished:
        points = [alone.ask() for _ in range(25)]
        singles: list[list[float]] = [point.astype(np.float32).tolist() for point in points]
        assert weights(advance(method, on_sphere)) == singles
        fitness = [sphere(single) for single in singles]
        alone.tell(list(zip(points, fitness, strict=True)))
        best = min(best, *fitness)
    assert method.archive.best is not None
    assert method.archive.best.fitness == best
    assert best < 1e-2


def test_infinite_fitness_ranks_last() -> None:
    def half_infinite(loss: MetaLoss) -> float:
        return math.inf if loss.phi[0] < 0 else on_sphere(loss)

    method = TaylorGLO(TaylorGLOSettings(generations=30), FORM, 5)
    while not method.finished:
        advance(method, half_infinite)
    assert method.archive.best is not None
    assert method.archive.best.fitness < 1e-2
    hopeless = TaylorGLO(TAYLOR, FORM, 5)
    while not hopeless.finished:
        advance(hopeless, lambda _: math.inf)
    assert hopeless.archive.best is None


def test_a_search_that_has_converged_begins_anew() -> None:
    search = CMAES([0.0, 0.0], 1.0, FEWEST_POINTS, "test")
    for generation in range(400):
        again = CMAES([0.0, 0.0], 1.0, FEWEST_POINTS, "test")
        again.load(json.loads(json.dumps(search.state())), generation, "the state")
        points = search.ask()
        assert again.ask() == points
        search.tell([sphere(point) for point in points])
    assert search.state()["restarts"] >= 1
    assert len(search.state()["orders"]) < 400


@pytest.mark.parametrize("size", [FEWEST_POINTS, 5, 30])
@pytest.mark.parametrize("count", [1, 2, 40])
def test_every_size_is_possible(size: int, count: int) -> None:
    search = CMAES([1.0] * count, 2.0, size, "test")
    for _ in range(5):
        points = search.ask()
        assert np.shape(points) == (size, count)
        search.tell([sphere(point) for point in points])


DAMAGED: dict[str, tuple[Any, str]] = {
    "nothing": (None, "the state is None, not an object"),
    "a field": ({"restarts": 0}, "the state lacks 'orders'"),
    "an order": ({"restarts": 0, "orders": [[0, 1, 2, 2]]}, "does not match 1"),
    "a point": ({"restarts": 0, "orders": [[0, 1, 2]]}, "does not match 1"),
    "a generation": ({"restarts": 0, "orders": []}, "does not match 1"),
    "restarts": ({"restarts": -1, "orders": []}, "does not match 1"),
    "a number": ({"restarts": 0, "orders": [[0.5, 1, 2, 3]]}, "is 0.5, not a whole number"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_state_is_one_sentence(case: str) -> None:
    state, message = DAMAGED[case]
    search = CMAES([0.0], 1.0, FEWEST_POINTS, "test")
    with pytest.raises(InputError, match=message) as caught:
        search.load(state, 1, "the state")
    assert "\n" not in str(caught.value)


def test_a_state_that_goes_on_after_its_end_is_refused() -> None:
    search = CMAES([0.0], 1.0, FEWEST_POINTS, "test")
    orders: list[list[int]] = []
    while search.state()["restarts"] == 0:
        search.tell([sphere(point) for point in search.ask()])
        orders = [*search.state()["orders"]] or [*orders, [0, 1, 2, 3]]
    with pytest.raises(InputError, match="continues after a restart"):
        search.load({"restarts": 0, "orders": orders * 9}, 9 * len(orders), "the state")


@each_method
def test_a_method_is_resumed_at_every_generation(name: str) -> None:
    def fitness(loss: MetaLoss) -> float:
        value = float(loss(torch.linspace(-1, 1, 9), torch.linspace(1, 0, 9)))
        return value if value < 1 else math.inf

    method = METHODS[name](SETTINGS[name], FORM, 3)
    while not method.finished:
        state = json.loads(json.dumps(method.state_dict(), allow_nan=False))
        resumed = METHODS[name](SETTINGS[name], FORM, 3)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == method.state_dict()
        expected = [(c.number, c.identity) for c in advance(method, fitness)]
        assert [(c.number, c.identity) for c in resumed.ask()] == expected


@each_method
def test_only_equal_weights_make_equal_losses(name: str) -> None:
    method = METHODS[name](SETTINGS[name], FORM, 3)
    loss = SymbolicLoss("square(sub(y, f))", [1.0, 2.0, 3.0])
    same = SymbolicLoss("square(sub(y, f))", [1.0, 2.0, 3.0])
    other = loss.with_phi(torch.tensor([1.0, 2.0, 3.0000002]))
    assert method.identity(loss, 0) == method.identity(same, 1)
    assert method.identity(loss, 0) != method.identity(other, 0)
    assert method.identity(TaylorLoss(), 0) != method.identity(TaylorLoss(order=2), 0)


PLANTED = SymbolicLoss("mul(square(sub(y, f)), tanh(y))", [0.7, 1.3, 0.8, 1.2, 0.6, 1.5][:6])


def distance(loss: MetaLoss) -> float:
    """Of a loss's values from those of the planted one, on a grid."""
    y, f = torch.meshgrid(torch.linspace(-2, 2, 9), torch.linspace(-2, 2, 9), indexing="ij")
    own, planted = (one.elementwise(y, f, one.phi) for one in (loss, PLANTED))
    return float((own - planted).square().mean())


@pytest.mark.parametrize("seed", range(3))
def test_glo_finds_the_weights_of_a_planted_expression(seed: int) -> None:
    settings = GLOSettings(
        population_size=20,
        generations=22,
        structure_generations=2,
        initial_losses=(str(PLANTED.expression),),
    )
    method = GLO(settings, FORM, seed)
    first = math.inf
    while not method.finished:
        advance(method, distance)
        assert method.archive.best is not None
        if method.generation == settings.structure_generations:
            first = method.archive.best.fitness
    assert method.archive.best is not None
    assert method.archive.best.fitness < first / 5


def test_glo_gives_weights_to_the_best_distinct_structures() -> None:
    method = GLO(EVOLVED, FORM, 2)
    for _ in range(3):
        advance(method, distance)
    outcomes = sorted(method.archive.distinct, key=lambda outcome: outcome.rank)
    expected = [o.candidate.loss.structure for o in outcomes[:2] if o.candidate.loss is not None]
    asked = [c.loss for c in method.ask()]
    assert [loss.structure for loss in asked if loss is not None] == [
        *[expected[0]] * 4,
        *[expected[1]] * 4,
    ]
    assert len(set(expected)) == 2
    assert not any(bool((loss.phi == 1).all()) for loss in asked if loss is not None)


def test_glo_searches_for_weights_even_if_everything_diverged() -> None:
    method = GLO(EVOLVED, FORM, 2)
    while not method.finished:
        assert advance(method, lambda _: math.inf)


def glo_state(generations: int) -> dict[str, Any]:
    method = GLO(EVOLVED, FORM, 2)
    for _ in range(generations):
        advance(method, distance)
    state: dict[str, Any] = json.loads(json.dumps(method.state_dict()))
    return state


def damage_structure(state: dict[str, Any], text: str) -> None:
    state["method"]["searches"][0]["structure"] = text


DAMAGED_GLO: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no searches": (lambda s: s["method"]["searches"].clear(), "does not match 4 generations"),
    "a search twice": (
        lambda s: s["method"]["searches"].append(s["method"]["searches"][0]),
        "does not match 4 generations",
    ),
    "another generation": (lambda s: s.update(generation=5), "does not match 2"),
    "too early": (lambda s: s.update(generation=2), "does not match 2 generations"),
    "malformed": (lambda s: damage_structure(s, "sub(y"), "a structure of the method is damaged"),
    "without f": (lambda s: damage_structure(s, "abs(y)"), "is not one that it could have made"),
    "no evolution": (lambda s: s["method"].pop("evolution"), "lacks 'evolution'"),
}


@pytest.mark.parametrize("case", DAMAGED_GLO)
def test_a_damaged_state_of_glo_is_one_sentence(case: str) -> None:
    damage, message = DAMAGED_GLO[case]
    state = glo_state(4)
    GLO(EVOLVED, FORM, 2).load_state_dict(state)
    damage(state)
    with pytest.raises(InputError, match=message) as caught:
        GLO(EVOLVED, FORM, 2).load_state_dict(state)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "setting", "value", "message"),
    [
        ("taylorglo", "population_size", 3, "population_size must be a whole number from 4"),
        ("taylorglo", "order", 1, "order must be a whole number from 2 to 5"),
        ("taylorglo", "order", 6, "order must be a whole number from 2 to 5"),
        ("taylorglo", "sigma", 0, "sigma must be a number above 0"),
        ("glo", "coefficient_population", 3, "coefficient_population must be a whole number"),
        ("glo", "structures", 0, "structures must be a whole number from 1"),
        ("glo", "structures", 50_000, "must not exceed 100000 multiplied"),
        ("glo", "sigma", -1, "sigma must be a number above 0"),
        ("glo", "structure_generations", 51, "must not exceed generations"),
    ],
)
def test_settings_are_checked(method: str, setting: str, value: Any, message: str) -> None:
    settings = METHODS[method].settings_type(**{setting: value})
    with pytest.raises(InputError, match=message):
        settings.validate()


def test_orders_are_those_of_the_polynomial() -> None:
    from evomal.losses.taylor import HIGHEST_ORDER, LOWEST_ORDER

    for order in (LOWEST_ORDER, HIGHEST_ORDER):
        settings = TaylorGLOSettings(order=order)
        settings.validate()
        assert weights(TaylorGLO(settings, FORM, 0).ask())
    for order in (LOWEST_ORDER - 1, HIGHEST_ORDER + 1):
        with pytest.raises(InputError, match="order"):
            TaylorGLOSettings(order=order).validate()


def test_further_inputs_are_refused_before_any_work(tmp_path: Path) -> None:
    task = regression_task(loss_inputs={"step": "progress"})
    with pytest.raises(InputError, match="further loss inputs step, but the polynomials"):
        evomal.search(task, method="taylorglo", settings=TAYLOR, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module", params=SETTINGS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("whole") / "run"
    settings = SETTINGS[request.param]
    return evomal.search(
        regression_task(), method=request.param, settings=settings, run_dir=place, seed=1
    )


def everything(run: Run) -> Any:
    outcomes = [
        (o.candidate.number, o.candidate.identity, o.status, o.fitness, o.source)
        for o in run.outcomes
    ]
    return without_timing(run.summary()), outcomes, (run.run_dir / "best.json").read_bytes()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_is_stopped_again_and_again_ends_as_the_whole_one(
    whole: Run, workers: int, tmp_path: Path
) -> None:
    place, method = tmp_path / "run", whole.facts.method
    arguments: dict[str, Any] = {"settings": SETTINGS[method], "seed": 1, "workers": workers}
    run = evomal.search(
        regression_task(), method=method, run_dir=place, max_evaluations=7, **arguments
    )
    for evaluations in (15, 23):
        assert run.facts.status == "stopped"
        run = evomal.resume(place, regression_task(), workers=workers, max_evaluations=evaluations)
    assert everything(evomal.resume(place, regression_task())) == everything(whole)


def test_a_run_that_is_made_longer_is_one_that_was_longer(whole: Run, tmp_path: Path) -> None:
    method, place = whole.facts.method, tmp_path / "run"
    shorter: dict[str, Any] = {"settings": SETTINGS[method], "generations": 4}
    run = evomal.search(regression_task(), method=method, run_dir=place, seed=1, **shorter)
    assert len(run.generations) == 4
    longer = evomal.resume(place, regression_task(), generations=6)
    assert everything(longer) == everything(whole)


def test_the_default_split_of_the_generations_is_kept(tmp_path: Path) -> None:
    settings = GLOSettings(**{**vars(EVOLVED), "structure_generations": None, "generations": 3})
    run = evomal.search(
        regression_task(), method="glo", settings=settings, run_dir=tmp_path / "run"
    )
    assert vars(run.facts.settings)["structure_generations"] == 2
    longer = evomal.resume(tmp_path / "run", regression_task(), generations=5)
    assert vars(longer.facts.settings)["structure_generations"] == 2


def test_the_best_loss_is_one_like_any_other(
    whole: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    best = str(whole.run_dir / "best.json")
    for command in (
        ["show", str(whole.run_dir)],
        ["show", best],
        ["train", "diabetes/mlp", "--loss", best, "--steps", "3"],
        ["analyze", best],
    ):
        assert main(command) == 0
        output, errors = capsys.readouterr()
        assert output, command
        assert "Error" not in errors


def test_glo_has_work_for_as_many_workers_as_its_larger_phase_has_candidates() -> None:
    settings = GLOSettings(population_size=5, structures=3, coefficient_population=8)
    assert settings.largest_generation == 24
    assert GLOSettings(population_size=30, structures=3).largest_generation == 30
