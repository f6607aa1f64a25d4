"""Whether a method keeps the contract of `evomal.methods.base.Method`."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args, get_type_hints

from evomal.errors import InputError, TaskWarning
from evomal.losses.files import load_loss, loss_to_dict
from evomal.losses.names import BEST_LOSS
from evomal.methods.base import Method
from evomal.methods.registry import METHODS
from evomal.methods.settings import SearchSettings
from evomal.runs.run import Run
from evomal.runs.search import resume, search
from evomal.testing.ask_tell import Drive
from evomal.testing.expectations import expect, expect_equal, expect_json, expect_refusal
from evomal.testing.small_tasks import small_task
from evomal.training.settings import Pipeline

SMALL: dict[str, Any] = {
    "population_size": 5,
    "generations": 3,
    "meta_steps": 2,
    "testing_steps": 5,
    "rejection_steps": 20,
}
"""Settings with which a search takes less than a second; a method takes those that it has."""


def check_method(
    method_type: type[Method],
    settings: SearchSettings | None = None,
    *,
    draws: bool = True,
) -> None:
    """Check that a method keeps the contract of `evomal.methods.base.Method`.

    Its settings and presets; what it asks for, of every form of loss; that a seed fixes it; that it
    continues from its state after every generation to the last bit, and survives outcomes without
    any fitness; and whole searches, one of them stopped and resumed.

    Parameters
    ----------
    method_type
        The class, which must be in ``evomal.methods.registry.METHODS`` by its name.
    settings
        Of a search that takes a second or so, with at least two generations if it can have them;
        default the method's own defaults with few and short steps.
    draws
        Whether what it asks for depends on the seed.

    Raises
    ------
    AssertionError
        If it does not; the message says what is expected, and what was seen.

    Examples
    --------
    >>> from evomal.methods.gp_lfl import GPLFL
    >>> check_method(GPLFL)  # doctest: +SKIP
    """
    _check_class(method_type)
    if settings is None:
        settings = small_settings(method_type)
    _check_settings(method_type, settings)
    Drive(method_type, settings).check(draws=draws)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", TaskWarning)
        _check_search(method_type, settings, Path(folder))


def small_settings(method_type: type[Method], **changes: Any) -> SearchSettings:
    """The defaults of a method, with as few and short steps as it has settings for."""
    names = {field.name for field in dataclasses.fields(method_type.settings_type)}
    chosen = {**SMALL, **changes}
    return method_type.settings_type(**{k: v for k, v in chosen.items() if k in names})


def _check_class(method_type: type[Method]) -> None:
    expect(issubclass(method_type, Method), f"{method_type!r} must be a subclass of Method.")
    for attribute in ("name", "description", "pipeline", "settings_type", "presets"):
        found = hasattr(method_type, attribute)
        expect(found, f"{method_type.__name__} must have a class variable {attribute}.")
    name = method_type.name
    expect(
        METHODS.get(name) is method_type,
        f"METHODS[{name!r}] of evomal.methods.registry must be {method_type.__name__}; add it.",
    )
    text = method_type.description
    expect(type(text) is str and "\n" not in text, f"The description of {name} must be one line.")
    is_pipeline = isinstance(method_type.pipeline, Pipeline)
    expect(is_pipeline, f"The pipeline of {name} must be a Pipeline.")


def _check_settings(method_type: type[Method], settings: SearchSettings) -> None:
    name, kind, presets = method_type.name, method_type.settings_type, method_type.presets
    is_record = dataclasses.is_dataclass(kind) and issubclass(kind, SearchSettings)
    expect(is_record, f"The settings_type of {name} must be a dataclass, a SearchSettings.")
    frozen = kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    expect(frozen, f"The settings of {name} must be a frozen dataclass.")
    missing = {"standard", "quick", "paper"} - set(presets)
    expect(
        not missing, f"{name} must have the presets standard, quick and paper, but lacks {missing}."
    )
    expect_equal(presets["paper"], kind(), f"The preset paper of {name}, which is the defaults,")
    for preset, values in {**presets, "given": settings}.items():
        expect_equal(type(values), kind, f"The type of the settings {preset} of {name}")
        try:
            values.validate()
        except InputError as error:
            raise AssertionError(
                f"The settings {preset} of {name} must be valid: {error}"
            ) from None
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if hints[field.name] is str or str in get_args(hints[field.name]):
            continue

        def senseless(setting: str = field.name) -> None:
            changed: Mapping[str, Any] = {setting: "no such value"}
            dataclasses.replace(settings, **changed).validate()

        what = f"The setting {field.name} of {name}, if it is 'no such value',"
        message = expect_refusal(senseless, what)
        sense = field.name in message or "no such value" in message
        expect(sense, f"{what} is refused without its name: {message}")


def _check_search(method_type: type[Method], settings: SearchSettings, folder: Path) -> None:
    """On a tiny task to the end, and the same with a stop."""
    name, task = method_type.name, small_task()
    common: dict[str, Any] = {"method": name, "settings": settings, "seed": 3, "progress": False}
    whole = search(task, run_dir=folder / "whole", **common)
    search(task, run_dir=folder / "parts", max_evaluations=1, **common)
    resumed = resume(folder / "parts", task, progress=False)
    for run in (whole, resumed):
        expect_equal(run.facts.status, "finished", f"The status of a whole run of {name}")
    expect(whole.archive.counts["evaluated"] > 0, f"{name} must train a loss; see the settings.")
    found, expected = _facts(resumed), _facts(whole)
    for part, value in expected.items():
        expect_equal(found[part], value, f"{part} of a run of {name} that was stopped and resumed")
    _check_best(name, whole)


def _facts(run: Run) -> dict[str, Any]:
    """What must not depend on whether a run was stopped."""
    return {name: v for name, v in run.summary().items() if name not in ("timing", "run_dir")}


def _check_best(name: str, run: Run) -> None:
    """The best loss in the run, in its file, and as it is shown."""
    expect_json(run.summary(), f"The summary of a run of {name}")
    best = run.archive.best
    if best is None or best.loss is None:  # the task loss itself
        return
    expect_json(dict(run.best.description), f"What the best loss of {name} says of itself")
    stored = load_loss(run.run_dir / BEST_LOSS)
    fields, ours = loss_to_dict(run.best.loss), loss_to_dict(stored)
    expect(fields == ours, f"{BEST_LOSS} of a run of {name} must hold its best loss.")
