"""Options, Hypothesis settings and fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pooch
import pytest
import torch
from hypothesis import HealthCheck, settings
from sklearn.datasets import _california_housing

from evomal.runs import run
from run_helpers import made_up_formulas

settings.register_profile(
    "evomal",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],  # says how busy the machine is
)
settings.load_profile("evomal")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    # torch's own import of its forward-mode rules
    message = "`torch.jit.script` is deprecated"
    config.addinivalue_line("filterwarnings", f"ignore:{message}:DeprecationWarning")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data sets; only a developer's own machine may lack it."""
    folder = os.environ.get("EVOMAL_DATA")
    if folder and Path(folder).is_dir():
        return Path(folder).resolve()  # as the program prints it
    reason = "EVOMAL_DATA does not name the folder of the data sets"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def instant_formulas() -> Iterator[None]:
    """Formulas without sympy, which takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "printed_forms", made_up_formulas)
        yield


@dataclass
class Mirror:
    """A web server on the loopback: the folder that it serves and the names it was asked for."""

    folder: Path
    requests: list[str]


@pytest.fixture
def mirror(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mirror]:
    """Where every download comes from; the hashes stay the real ones."""
    mirror = Mirror(tmp_path_factory.mktemp("mirror"), [])

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            mirror.requests.append(self.path[1:])

    retrieve = pooch.retrieve
    handler = partial(Handler, directory=str(mirror.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:

        def local(url: str) -> str:
            return f"http://127.0.0.1:{server.server_address[1]}/{url.rpartition('/')[2]}"

        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(pooch, "retrieve", lambda url, *a, **k: retrieve(local(url), *a, **k))
        archive = _california_housing.ARCHIVE._replace(url=local("/cal_housing.tgz"))
        monkeypatch.setattr(_california_housing, "ARCHIVE", archive)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield mirror
        server.shutdown()
        thread.join()
