"""Downloads: whole and checked or not at all, resumed where they broke off."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import signal
import socket
import sys
import tarfile
from http import HTTPStatus
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import requests
from filelock import FileLock

from conftest import Mirror
from evomal.cli import main
from evomal.errors import InputError
from evomal.tasks import data_files, datasets, tabular
from evomal.tasks.data_files import retrieve
from evomal.tasks.datasets import DATASETS, load_arrays
from evomal.tasks.registry import load_task
from run_helpers import contents, run_python

BOSTON, CALIFORNIA = "boston/housing.data", "cal_housing_py3.pkz"
ARCHIVE = tabular.CALIFORNIA_URL.rpartition("/")[2]


def put(path: Path, content: bytes) -> None:
    """Write a file in the place of a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize("dataset", ["boston", "mnist"])
def test_a_download_lands_once_and_only_what_is_absent_is_fetched(
    dataset: str, mirror: Mirror, data_dir: Path, tmp_path: Path
) -> None:
    *present, last = DATASETS[dataset].files
    for name in present[:1]:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).symlink_to(data_dir / name)
    for name in present[1:2]:
        put((tmp_path / name).with_suffix(""), gzip.decompress((data_dir / name).read_bytes()))
    absent = [*present[2:], last]
    for name in absent:
        content = (data_dir / name).read_bytes()
        if name == BOSTON:  # our copy lacks the last line's end
            content = content.rstrip() + b"\n"
        put(mirror.folder / Path(name).name, content)
    expected = load_arrays(dataset, data_dir)
    for _ in range(2):
        found = load_arrays(dataset, tmp_path, download=True)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
        assert len(mirror.requests) == len(absent)
    assert all((tmp_path / name).is_file() for name in absent)


def test_california_is_made_of_the_original_archive(
    mirror: Mirror, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = joblib.load(data_dir / CALIFORNIA)
    original = np.empty_like(stored)
    original[:, [8, 7, 2, 3, 4, 5, 6, 1, 0]] = stored
    text = io.StringIO()
    np.savetxt(text, original, fmt="%.17g", delimiter=",")
    member = tarfile.TarInfo("CaliforniaHousing/cal_housing.data")
    member.size = len(text.getvalue())
    with tarfile.open(mirror.folder / ARCHIVE, "w:gz") as archive:
        archive.addfile(member, io.BytesIO(text.getvalue().encode()))
    digest = hashlib.sha256((mirror.folder / ARCHIVE).read_bytes()).hexdigest()
    monkeypatch.setattr(tabular, "CALIFORNIA_SHA256", digest)
    found = load_task("california/mlp", data_dir=tmp_path / "new", download=True)
    assert found.fingerprint() == load_task("california/mlp", data_dir=data_dir).fingerprint()
    load_arrays("california", tmp_path / "new", download=True)
    assert len(mirror.requests) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == [CALIFORNIA]


@pytest.mark.parametrize("dataset", ["boston", "california", "mnist"])
def test_a_corrupt_download_leaves_nothing_behind(
    dataset: str, mirror: Mirror, tmp_path: Path
) -> None:
    for name in (*(Path(file).name for file in DATASETS[dataset].files), ARCHIVE):
        put(mirror.folder / name, b"garbage")
    with pytest.raises(
        InputError, match=f"data set {dataset!r} cannot be downloaded: .*(?i:sha|md5)"
    ):
        load_arrays(dataset, tmp_path, download=True)
    assert mirror.requests
    assert contents(tmp_path) == {}


PROBLEMS = {
    "nobody there": "cannot be reached (Connection refused)",
    "no such host": "cannot be reached (Name or service not known)",
    "silence": "cannot be reached (timed out)",
    "absent": "answers 404 Not Found",
    "broken": "answers 500 Internal Server Error",
    "in preparation": "answers 202 Accepted",
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(
    ("dataset", "file"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte.gz"),
        ("cifar10", "cifar-10-python.tar.gz"),
        ("svhn", "train_32x32.mat"),
        ("california", "cal_housing.tgz"),
    ],
)
def test_without_a_server_there_is_one_sentence_and_no_file(
    dataset: str,
    file: str,
    problem: str,
    mirror: Mirror,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, but says nothing
        if problem in ("nobody there", "silence"):
            mirror.address = f"http://127.0.0.1:{server.getsockname()[1]}"
        if problem == "nobody there":
            server.close()
        if problem == "silence":
            monkeypatch.setattr(data_files, "_TIMEOUT", 0.01)
        if problem == "no such host":
            monkeypatch.setattr(socket, "getaddrinfo", unknown)
        if problem in ("broken", "in preparation"):
            put(mirror.folder / (ARCHIVE if dataset == "california" else Path(file).name), b"x")
            mirror.status = HTTPStatus(int(PROBLEMS[problem].split()[1]))
        status = main(["data", "download", dataset, "--data-dir", str(tmp_path)])
    output, errors = capsys.readouterr()
    assert (status, output) == (2, "")
    announced, error = errors.splitlines()
    place = re.escape(str(tmp_path / file))
    url = re.fullmatch(rf"Downloading (http\S+) to {place}", announced)
    assert url is not None
    assert error == (
        f"Error: The data set {dataset!r} cannot be downloaded: {url[1]} {PROBLEMS[problem]}; "
        f"check the network and try again, or put the file at {str(tmp_path / file)!r} yourself."
    )
    assert contents(tmp_path) == {}


def test_a_folder_that_cannot_be_written_is_an_input_error(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(InputError, match=r"'boston' cannot be downloaded: .*--data-dir") as caught:
        load_arrays("boston", tmp_path / "data", download=True)
    assert "\n" not in str(caught.value)
    assert mirror.requests == []


def test_what_another_process_has_just_downloaded_is_taken(
    mirror: Mirror, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LateLock(FileLock):
        def acquire(self, *arguments: Any, **options: Any) -> Any:
            put(tmp_path / CALIFORNIA, (data_dir / CALIFORNIA).read_bytes())
            return super().acquire(*arguments, **options)

    monkeypatch.setattr(datasets, "FileLock", LateLock)
    assert load_arrays("california", tmp_path, download=True)[0].shape == (20640, 8)
    assert mirror.requests == []
    assert list(contents(tmp_path)) == [CALIFORNIA]


CONTENT = np.random.default_rng(0).bytes(1_000_000)
HASH = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
INTERRUPTED = """
import os, sys
from pathlib import Path
import requests
from evomal.tasks.data_files import retrieve

def iter_content(response, size):
    chunks = whole(response, size)
    yield next(chunks)
    yield next(chunks)
    os.kill(os.getpid(), int(number))

whole, requests.Response.iter_content = requests.Response.iter_content, iter_content
url, known_hash, path, number = sys.argv[1:]
retrieve(url, known_hash, Path(path))
"""


@pytest.fixture
def url(mirror: Mirror) -> str:
    """Where `CONTENT` can be had."""
    put(mirror.folder / "file.bin", CONTENT)
    return "http://elsewhere/file.bin"


@pytest.mark.parametrize("interruption", [signal.SIGINT, signal.SIGKILL, "noticed", "unnoticed"])
def test_an_interrupted_download_goes_on(
    interruption: signal.Signals | str,
    mirror: Mirror,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, part = tmp_path / "file.bin", tmp_path / ".file.bin.part"
    if isinstance(interruption, signal.Signals):
        arguments = [mirror.url(url), HASH, str(path), str(int(interruption))]
        assert run_python("-c", INTERRUPTED, *arguments)[0] == -interruption
    else:
        mirror.limit = 600_000
        if interruption == "unnoticed":  # by urllib3 before version 2
            get = requests.get

            def unnoticing(*arguments: Any, **options: Any) -> requests.Response:
                response = get(*arguments, **options)
                response.raw.enforce_content_length = False
                return response

            monkeypatch.setattr(requests, "get", unnoticing)
        with pytest.raises(InputError, match=r"broke off after [0-9,]+ of 1,000,000 bytes") as e:
            retrieve(url, HASH, path)
        assert f"{part.stat().st_size:,} of" in str(e.value)
        mirror.limit = None
    size = part.stat().st_size
    assert contents(tmp_path) == {part.name: CONTENT[:size]}
    assert 100_000 < size <= 600_000
    retrieve(url, HASH, path)
    assert mirror.starts == [0, size]
    assert contents(tmp_path) == {path.name: CONTENT}


@pytest.mark.parametrize(
    ("there", "ranges", "starts"),
    [
        ({".file.bin.part": CONTENT[:1000]}, False, [1000]),
        ({".file.bin.part": CONTENT}, True, [len(CONTENT)]),
        ({".file.bin.part": b""}, True, [0]),
        ({"file.bin": CONTENT[:1000]}, True, [0]),
        ({"file.bin": CONTENT}, True, []),
    ],
    ids=["no ranges", "nothing missing", "nothing yet", "another file", "the file"],
)
def test_what_is_there_is_used_only_if_it_can_be(
    there: dict[str, bytes],
    ranges: bool,
    starts: list[int],
    mirror: Mirror,
    url: str,
    tmp_path: Path,
) -> None:
    for name, content in there.items():
        put(tmp_path / name, content)
    mirror.ranges = ranges
    retrieve(url, HASH, tmp_path / "file.bin")
    assert mirror.starts == starts
    assert contents(tmp_path) == {"file.bin": CONTENT}


@pytest.mark.parametrize("length", [1000, 2_000_000])
def test_a_wrong_part_is_deleted(length: int, mirror: Mirror, url: str, tmp_path: Path) -> None:
    put(tmp_path / ".file.bin.part", bytes(length))
    with pytest.raises(InputError, match=r"is not the published file \(SHA256 \w+ instead of"):
        retrieve(url, HASH, tmp_path / "file.bin")
    assert contents(tmp_path) == {}
    retrieve(url, HASH, tmp_path / "file.bin")
    assert mirror.starts == [length, 0]
    assert contents(tmp_path) == {"file.bin": CONTENT}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_bar_is_drawn_on_a_terminal_and_nowhere_else(
    stream: type[io.StringIO], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    shown = stream()
    monkeypatch.setattr(sys, "stderr", shown)
    retrieve(url, HASH, tmp_path / "file.bin")
    line, _, bar = shown.getvalue().partition("\n")
    assert line == f"Downloading {url} to {tmp_path / 'file.bin'}"
    assert re.search(r"file\.bin .*1\.0/1\.0.MB", bar) if stream is Terminal else bar == ""
