"""The methods, by name."""

from __future__ import annotations

from evomal.methods.base import Method
from evomal.methods.baseline import Baseline
from evomal.methods.evolution import GPLFL, EvoMAL

METHODS: dict[str, type[Method]] = {cls.name: cls for cls in (EvoMAL, GPLFL, Baseline)}
"""Every method, by its name."""
