"""Settings for losses that somebody gives, instead of a method that proposes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from evomal.methods.evomal import QUICK
from evomal.methods.settings import SearchSettings
from evomal.training.settings import EvaluationSettings


@dataclass(frozen=True)
class ScoreSettings(SearchSettings, EvaluationSettings):
    """Settings for scoring given losses; the defaults are the paper's."""


SETTING_NAMES = [field.name for field in fields(ScoreSettings)]

PRESETS: Mapping[str, ScoreSettings] = {
    "paper": ScoreSettings(),
    "quick": ScoreSettings(**{name: QUICK[name] for name in SETTING_NAMES if name in QUICK}),
}
"""The settings with which evomal evaluates its candidates, by preset."""
