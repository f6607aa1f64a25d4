"""The methods by name; importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields

from evomal.errors import InputError, meant, quoted, require_name
from evomal.methods.base import Method
from evomal.methods.baseline import Baseline
from evomal.methods.evomal import EvoMAL
from evomal.methods.glo import GLO
from evomal.methods.gp_lfl import GPLFL
from evomal.methods.ml3 import ML3
from evomal.methods.random import Random
from evomal.methods.settings import SearchSettings
from evomal.methods.taylorglo import TaylorGLO

METHODS: dict[str, type[Method]] = {
    "evomal": EvoMAL,
    "gp-lfl": GPLFL,
    "glo": GLO,
    "taylorglo": TaylorGLO,
    "ml3": ML3,
    "random": Random,
    "baseline": Baseline,
}
"""All methods by name."""


def setting_names(method: str) -> list[str]:
    """The settings of a method."""
    return [field.name for field in fields(METHODS[method].settings_type)]


def methods_with(setting: str) -> list[str]:
    """The methods that have a setting."""
    return [method for method in METHODS if setting in setting_names(method)]


def no_such_setting(method: str, name: str, more: Collection[str] = ()) -> InputError:
    """The error for a setting that a method lacks, with methods that have it or similar names.

    `more` are other valid names in the same place.
    """
    others, own = methods_with(name), [*setting_names(method), *more]
    if others:
        remedy = f"leave it out, or choose a method that has it: {', '.join(others)}."
    else:
        remedy = meant(name, own) or f"it has {', '.join(own)}."
    return InputError(f"The method {method} has no setting {quoted(name)}; {remedy}")


def choose_preset(method: str, name: str) -> SearchSettings:
    """The settings of a preset of a method.

    Raises
    ------
    InputError
        If there is no such method or preset.
    """
    require_name("method", method, METHODS, "`evomal methods` lists them")
    require_name("preset", name, METHODS[method].presets)
    return METHODS[method].presets[name]
