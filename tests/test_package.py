"""The package as a whole: public names, lazy imports, layers, file sizes, no global seeding."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import evomal
import evomal.losses
from evomal.methods.registry import METHODS
from run_helpers import run_python

SOURCE = Path(evomal.__file__).parent
MODULES = {
    ".".join(("evomal", *path.relative_to(SOURCE).with_suffix("").parts)): path
    for path in sorted(SOURCE.rglob("*.py"))
}
LAYERS = [
    *("expressions", "losses", "tasks", "training", "methods", "runs", "testing", "analysis", "cli")
]
"""From the bottom to the top; an import may only point downwards.

`testing` stands above all that it checks, and nothing but tests imports it."""


def test_public_names_are_declared_once_and_importable() -> None:
    assert sorted(evomal.__all__) == sorted(evomal._HOMES)
    assert len(set(evomal.__all__)) == len(evomal.__all__)
    for name, home in evomal._HOMES.items():
        assert getattr(evomal, name) is getattr(importlib.import_module(home), name)
    assert set(evomal.__all__) <= set(dir(evomal))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = evomal.nonsense


def test_losses_are_where_they_are_looked_for() -> None:
    for name in evomal.losses.__all__:
        value = getattr(evomal.losses, name)
        assert value is getattr(evomal, name, value)
        assert name in dir(evomal.losses)
    assert {name for name in evomal.__all__ if name.endswith("Loss")} < set(evomal.losses.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'CrossEntropyLoss'"):
        evomal.losses.CrossEntropyLoss  # noqa: B018


HELP = """
from evomal.cli import main
try:
    main([{}])
except SystemExit as end:
    assert end.code == 0
"""


@pytest.mark.parametrize(
    "statement",
    [
        "import evomal; dir(evomal)",
        "import evomal.losses; assert 'FocalLoss' in dir(evomal.losses)",
        "import evomal.cli",
        "from evomal import InputError, SearchSettings, parse; parse('sub(y, f)')",
        HELP.format("'--help'"),
        HELP.format("'search', '--help'"),
        *(HELP.format(f"'search', '--method', '{method}', '--help'") for method in METHODS),
    ],
    ids=["package", "losses", "command line", "expressions", "help", "help on search", *METHODS],
)
def test_torch_is_imported_only_when_it_is_needed(statement: str) -> None:
    check = "\nimport sys; assert not {'torch', 'sympy', 'sklearn'} & set(sys.modules)"
    status, _, errors = run_python("-c", statement + check)
    assert (status, errors) == (0, "")


def test_workers_and_searches_start_without_what_only_some_of_them_need() -> None:
    statement = "import sys, evomal.cli, evomal.runs.search, evomal.runs.processes"
    check = "assert not {'sklearn', 'scipy', 'pandas', 'sympy', 'cmaes'} & set(sys.modules)"
    assert run_python("-c", f"{statement}; {check}") == (0, "", "")


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """Every module that is imported anywhere in a file, in functions and under conditions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(module: str) -> int | None:
    """Rank of a module of evomal; 0 for those below all layers, None for others."""
    parts = module.split(".")
    if parts[0] != "evomal" or len(parts) == 1:
        return None
    if parts[1] in LAYERS:
        return 1 + LAYERS.index(parts[1])
    return 0 if parts[1] in ("arrays", "errors", "interrupts", "seeding") else len(LAYERS) + 1


def upward_imports(module: str, tree: ast.Module) -> list[str]:
    own = layer(module)
    assert own is not None
    ranks = {name: layer(name) for name in imported_modules(tree)}
    return [name for name, rank in ranks.items() if rank is not None and rank > own]


@pytest.mark.parametrize("module", sorted({*MODULES} - {"evomal.__init__", "evomal.__main__"}))
def test_imports_point_downwards(module: str) -> None:
    assert layer(module) in range(len(LAYERS) + 1), "a module outside all layers"
    assert upward_imports(module, ast.parse(MODULES[module].read_text())) == []


@pytest.mark.parametrize(
    ("module", "line", "allowed"),
    [
        ("evomal.losses.base", "from evomal.expressions.expression import parse", True),
        ("evomal.losses.base", "from evomal.losses.files import load_loss", True),
        ("evomal.losses.base", "from evomal.tasks.task import Task", False),
        ("evomal.losses.base", "from evomal import Task", False),
        ("evomal.losses.base", "from evomal import tasks", False),
        ("evomal.seeding", "import evomal.errors", True),
        ("evomal.seeding", "import evomal.expressions.expression", False),
        ("evomal.runs.run", "def f():\n    import evomal.cli.tables", False),
        ("evomal.cli", "import torch, evomal.cli.tables", True),
    ],
)
def test_the_layer_rule_is_read_from_imports(module: str, line: str, allowed: bool) -> None:
    assert bool(upward_imports(module, ast.parse(line))) is not allowed


def global_seedings(tree: ast.Module) -> list[str]:
    """Calls that seed a global generator, and imports of functions that do."""
    functions = ("manual_seed", "manual_seed_all", "seed", "seed_all", "set_rng_state")
    modules = ("torch", "np", "numpy", "random")
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [name for name in [*calls, *imported_modules(tree)] if "(" not in name]
    return [
        name
        for name in names
        if name.split(".")[-1] in functions
        and (name.split(".")[0] in modules or "manual_seed" in name)
    ]


@pytest.mark.parametrize("module", MODULES)
def test_only_the_seeding_module_seeds_global_state(module: str) -> None:
    seedings = global_seedings(ast.parse(MODULES[module].read_text()))
    assert bool(seedings) is (module == "evomal.seeding")


@pytest.mark.parametrize(
    "line",
    [
        "torch.manual_seed(0)",
        "np.random.seed(0)",
        "def f():\n    random.seed()",
        "torch.cuda.manual_seed_all(1)",
        "gpus.manual_seed(1)",
        "from torch import manual_seed",
        "from numpy.random import seed",
    ],
)
def test_global_seeding_is_recognised(line: str) -> None:
    assert len(global_seedings(ast.parse(line))) == 1
    assert global_seedings(ast.parse("torch.Generator().manual_seed(0); rng.random()")) == []


@pytest.mark.parametrize("module", MODULES)
def test_files_stay_short(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= 350
