"""Conformance tests that anyone can import: of losses, methods, engines and executors.

Each check is a plain function that raises an `AssertionError`, which says what is expected and what
was seen; it needs no test framework, and writes in a temporary folder only.
"""

from __future__ import annotations

from evomal.testing.engines import check_engine
from evomal.testing.executors import check_executor
from evomal.testing.losses import check_loss
from evomal.testing.methods import check_method

__all__ = ["check_engine", "check_executor", "check_loss", "check_method"]
