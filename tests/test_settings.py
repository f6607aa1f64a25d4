"""Every setting has a range, which its message names; what a machine cannot do is refused."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from evomal import BaselineSettings, EvoMALSettings, Execution, GPLFLSettings, InputError, search
from evomal.methods.registry import METHODS
from evomal.runs import execution
from evomal.runs.execution import require_cores
from run_helpers import TINY
from tasks_for_tests import regression_task

HUGE = 99999999999999999999
NUMBERS = [
    (kind, field.name)
    for kind in (*(method.settings_type for method in METHODS.values()), Execution)
    for field in fields(kind)
    if str(field.type).split(" | ")[0] in ("int", "float")
]


def test_numbers_are_found() -> None:
    names = {name for kind, name in NUMBERS if kind in (EvoMALSettings, Execution)}
    assert names >= {"meta_steps", "threads", "crossover_rate", "workers", "max_time", "patience"}
    assert len(names) == 30


@pytest.mark.parametrize("value", [10**400, -1, True, float("nan"), "3", [1]], ids=str)
@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_a_senseless_number_is_refused(kind: Any, name: str, value: Any) -> None:
    if (name, value) == ("target_fitness", -1):
        return  # of a score
    with pytest.raises(InputError, match=f"setting {name} must be a") as error:
        kind(**{name: value}).validate()
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("population_size", 100_000),
        ("tournament_size", 10_000),
        ("generations", 1_000_000),
        ("meta_steps", 10_000_000),
        ("testing_steps", 10_000_000),
        ("threads", 1_000_000),
        ("max_height", 100),
        ("max_initial_height", 20),
    ],
)
def test_the_message_names_the_range(name: str, most: int) -> None:
    more: dict[str, Any] = {"max_height": 20} if name == "max_initial_height" else {}
    EvoMALSettings(**{**more, name: most}).validate()
    more[name] = HUGE
    with pytest.raises(InputError, match=f"from [01] to {most}, got {HUGE}"):
        EvoMALSettings(**more).validate()


@pytest.mark.parametrize(
    "name",
    [
        "prescreen",
        "match_scale",
        "halving",
        "engine",
        "activation",
        "inherit_weights",
        "known_losses",
        "tune_recipe",
    ],
)
@pytest.mark.parametrize("value", ["no", 1, None, np.zeros(2)], ids=str)
def test_a_choice_is_one_of_its_values(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"setting {name} must be .* or .*, got"):
        EvoMALSettings(**{name: value}).validate()


def test_numbers_of_numpy_and_torch_are_taken_by_value() -> None:
    settings = EvoMALSettings(
        population_size=np.int64(7),  # type: ignore[arg-type]
        crossover_rate=np.float32(0.5),  # type: ignore[arg-type]
        prescreen=np.bool_(True),  # type: ignore[arg-type]
        meta_steps=torch.tensor(3),  # type: ignore[arg-type]
        initial_losses="square(sub(y, f))",  # type: ignore[arg-type]
    )
    settings.validate()
    plain = EvoMALSettings(meta_steps=3, population_size=7, crossover_rate=0.5, prescreen=True)
    assert settings.initial_losses == ("square(sub(y, f))",)
    for field in fields(plain):
        if field.name != "initial_losses":
            ours, other = getattr(settings, field.name), getattr(plain, field.name)
            assert (type(ours), ours) == (type(other), other)
    limits = Execution(workers=np.int32(2), max_time=np.float64(1.5))  # type: ignore[arg-type]
    limits.validate()
    assert (type(limits.workers), type(limits.max_time)) == (int, float)


@pytest.mark.parametrize("losses", [3, [b"x"], None, [1]])
def test_initial_losses_are_texts(losses: Any) -> None:
    with pytest.raises(InputError, match="initial_losses must be a list of strings"):
        GPLFLSettings(initial_losses=losses)


def test_a_population_without_offspring_is_refused() -> None:
    EvoMALSettings(population_size=1, generations=1).validate()
    EvoMALSettings(population_size=2, generations=2).validate()
    with pytest.raises(InputError, match="nothing new is searched after the first generation"):
        EvoMALSettings(population_size=1, generations=2).validate()


def test_a_machine_is_not_asked_for_more_than_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "available_cores", lambda: 2)
    require_cores(2)
    with pytest.raises(InputError, match="3 threads are too many for the 2 cores here"):
        require_cores(3)
    for threads, most in [(1, 8), (2, 4), (100, 1)]:
        with pytest.warns(UserWarning, match="share 2 cores"):
            Execution(workers=most).require_room(threads)
        with pytest.raises(InputError, match=f"too many for the 2 cores here; use at most {most}"):
            Execution(workers=most + 1).require_room(threads)
    Execution(workers=2).require_room(1)  # without a warning, which would be an error
    Execution(workers=1).require_room(2)
    Execution(workers=9, executor="ray").require_room(1)
    Execution(workers="auto").require_room(1000)


@pytest.mark.parametrize("arguments", [{"workers": 9000}, {"threads": 9000}], ids=str)
def test_a_search_says_so_before_it_begins(arguments: dict[str, Any], tmp_path: Any) -> None:
    with pytest.raises(InputError, match=r"9000.*use at most|9000 threads are too many"):
        search(regression_task(), run_dir=tmp_path / "run", **{**TINY, **arguments})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "name", "value", "remedy"),
    [
        ("gp-lfl", "prescreen", True, "choose a method that has it: evomal"),
        ("gp-lfl", "meta_steps", 3, "choose a method that has it: evomal"),
        ("baseline", "halving", True, "choose a method that has it: evomal, gp-lfl"),
        ("baseline", "activation", "softplus", "choose a method that has it: "),
        ("baseline", "initial_losses", ("square(sub(y, f))",), "choose a method that has it: "),
        ("gp-lfl", "populaton_size", 3, "did you mean population_size?"),
        ("gp-lfl", "max_tme", 3, "did you mean max_time?"),
        ("baseline", "nonsense", 3, "it has testing_steps, training_budget, "),
    ],
)
def test_a_setting_that_a_method_does_not_have_is_refused(
    method: str, name: str, value: Any, remedy: str, tmp_path: Any
) -> None:
    message = f"The method {method} has no setting '{name}'; .*{re.escape(remedy)}"
    with pytest.raises(InputError, match=message) as error:
        search(regression_task(), method=method, run_dir=tmp_path / "run", **{name: value})
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("settings", [EvoMALSettings(), BaselineSettings(), 3], ids=str)
def test_settings_of_another_method_are_refused(settings: Any, tmp_path: Any) -> None:
    expected = r"settings must be GPLFLSettings\(...\) for the method gp-lfl, got"
    with pytest.raises(InputError, match=expected):
        search(regression_task(), method="gp-lfl", settings=settings, run_dir=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_what_all_methods_share_is_what_the_baseline_has() -> None:
    shared = {field.name for field in fields(BaselineSettings)}
    assert shared >= {"testing_steps", "engine", "group_size", "precision", "threads"}
    assert not shared & {"generations", "population_size", "meta_steps", "rejection_steps"}
    for method in METHODS.values():
        assert shared <= {field.name for field in fields(method.settings_type)}


def test_an_initial_loss_has_the_link_of_the_tasks(tmp_path: Any) -> None:
    with pytest.raises(InputError, match="'cross-entropy' is for link 'softmax', but the tasks"):
        search(regression_task(), run_dir=tmp_path / "run", initial_losses=["cross-entropy"])
    assert list(tmp_path.iterdir()) == []
