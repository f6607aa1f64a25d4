"""Options, Hypothesis settings and fixtures of all tests."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import requests
import torch
from hypothesis import HealthCheck, settings

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
    # small tasks are often validated on the rows that they are trained on
    message = ".* rows .* are also training rows"
    config.addinivalue_line("filterwarnings", f"ignore:{message}:evomal.errors.TaskWarning")


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
    """A web server on the loopback that takes the place of every other.

    Attributes
    ----------
    folder
        What it serves.
    address
        Where it is.
    requests, starts
        The names that it was asked for, and the byte from which on.
    status
        What it answers for a file that it has.
    ranges
        Whether it can start inside a file.
    limit
        The bytes of an answer after which it hangs up.
    """

    folder: Path
    address: str = ""
    requests: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    status: HTTPStatus = HTTPStatus.OK
    ranges: bool = True
    limit: int | None = None

    def url(self, url: str) -> str:
        """Where the file is that elsewhere has this address."""
        return f"{self.address}/{url.rpartition('/')[2]}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Serve one file."""
        name, asked = handler.path[1:], handler.headers["Range"]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.requests.append(name)
        self.starts.append(start)
        path = self.folder / name
        status = self.status if path.is_file() else HTTPStatus.NOT_FOUND
        if status != HTTPStatus.OK:
            handler.send_error(status)
            return
        content = path.read_bytes()
        if asked and self.ranges:
            if start >= len(content):
                handler.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
            handler.send_response(HTTPStatus.PARTIAL_CONTENT)
            last = len(content) - 1
            handler.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
            content = content[start:]
        else:
            handler.send_response(HTTPStatus.OK)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        with contextlib.suppress(ConnectionError):  # the other side hangs up
            handler.wfile.write(content[: self.limit])


@pytest.fixture
def mirror(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mirror]:
    """Where every download comes from; the hashes stay the real ones."""
    mirror = Mirror(tmp_path_factory.mktemp("mirror"))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    get = requests.get
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        mirror.address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(requests, "get", lambda url, **k: get(mirror.url(url), **k))
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield mirror
        server.shutdown()
        thread.join()
