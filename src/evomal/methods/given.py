"""Settings for losses that somebody gives, instead of a method that proposes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from evomal.methods.evomal import QUICK_SEARCH, STANDARD_SEARCH
from evomal.methods.settings import WorkSettings
from evomal.training.settings import EvaluationSettings


@dataclass(frozen=True)
class ScoreSettings(WorkSettings, EvaluationSettings):
    """Settings for scoring given losses; the defaults are the paper's."""


SETTING_NAMES = [field.name for field in fields(ScoreSettings)]

PRESETS: Mapping[str, ScoreSettings] = {
    preset: ScoreSettings(**{name: of for name, of in values.items() if name in SETTING_NAMES})
    for preset, values in {"standard": STANDARD_SEARCH, "quick": QUICK_SEARCH, "paper": {}}.items()
}
"""The settings with which evomal evaluates its candidates, by preset."""

BY_TUNING: Mapping[bool, dict[str, Any]] = {True: {}, False: {"match_scale": False}}
"""Settings that differ by whether losses are tuned: those that are not stay as they are."""
