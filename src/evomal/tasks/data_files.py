"""Files of data sets: descriptions, locations and downloads."""

from __future__ import annotations

import hashlib
import os
import sys
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from evomal.errors import InputError
from evomal.losses.form import Link

if TYPE_CHECKING:
    from requests import Response
    from rich.progress import Progress

Array = NDArray[Any]

_CHUNK = 2**16
"""Bytes to read at once."""

_TIMEOUT = 30.0
"""Timeout in seconds for a server's response."""


@dataclass(frozen=True)
class ImageFacts:
    """Description of an image data set.

    Attributes
    ----------
    shape
        (channels, height, width).
    classes
        Number of classes.
    mean, deviation
        Statistics of the training pixels in [0, 1], by channel.
    augmented
        Whether training images are cropped and flipped at random.
    """

    shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    augmented: bool


@dataclass(frozen=True)
class DatasetInfo:
    """A data set for tasks.

    Attributes
    ----------
    name
        Name in task names and messages.
    files
        Paths below the data directory; none if the data is included in scikit-learn.
    read
        ``read(data_dir)``: (features (n, d), targets (n,)) of a table, or the uint8 images and
        labels of the official training and test sets.
    download
        ``download(data_dir)`` downloads `files` and checks them.
    link
        What the targets are: ``"identity"`` values, ``"softmax"`` class indices, ``"sigmoid"`` 0 or
        1. Images have classes.
    images
        Description of the images; None for a table.
    hashes
        MD5 digests of the published files, by path.
    """

    name: str
    files: tuple[str, ...]
    read: Callable[[Path], tuple[Array, ...]]
    download: Callable[[Path], None]
    link: Link = "identity"
    images: ImageFacts | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)

    def is_present(self, data_dir: Path) -> bool:
        """Whether every file is present, packed or unpacked."""
        return all(existing(data_dir / name) is not None for name in self.files)

    def presence(self, data_dir: Path) -> Literal["present", "absent"]:
        """The same as a word."""
        return "present" if self.is_present(data_dir) else "absent"

    def verify(self, data_dir: Path) -> None:
        """Raise an `InputError` if a file (unless unpacked) differs from the published one."""
        for name, md5 in self.hashes.items():
            if (data_dir / name).is_file():
                checked_bytes(data_dir / name, md5)


def existing(path: Path) -> Path | None:
    """The file, or its unpacked form, as left by torchvision."""
    unpacked = path.with_suffix("") if path.suffix == ".gz" else path
    return next((found for found in (path, unpacked) if found.is_file()), None)


def damaged(path: Path, reason: object) -> InputError:
    """The error of a file that cannot be used."""
    line = " ".join(str(reason).split())
    return InputError(
        f"The data file {str(path)!r} is damaged ({line}); delete it and download it again with "
        "--download."
    )


def fetch(data_dir: Path, urls: dict[str, str], hashes: dict[str, str]) -> None:
    """Download missing files, by their path below `data_dir`; see `retrieve`."""
    for name, url in urls.items():
        if existing(data_dir / name) is None:
            retrieve(url, hashes[name], data_dir / name)


def fetch_archive(data_dir: Path, url: str, md5: str, hashes: Mapping[str, str]) -> None:
    """Download a tar archive and extract some of its files to `data_dir`, checked and complete."""
    archive = data_dir / url.rpartition("/")[2]
    retrieve(url, f"md5:{md5}", archive)
    with tarfile.open(archive) as tar:
        for name, expected in hashes.items():
            member = tar.extractfile(name)
            assert member is not None
            content = member.read()
            if hashlib.md5(content, usedforsecurity=False).hexdigest() != expected:
                raise damaged(archive, f"{name} in it differs from the published file")
            path = data_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.draft")
            draft.write_bytes(content)
            draft.replace(path)


def retrieve(url: str, known_hash: str, path: Path) -> None:
    """Download a file unless it exists; it gets its name once it is complete and checked.

    It is written to ``.NAME.part`` in the same folder. The next call resumes an interrupted
    download if the server supports it, and deletes it if the complete file has a different digest.
    Progress is printed on stderr. Two processes must not do this at the same time.

    Parameters
    ----------
    url
        Address of the file.
    known_hash
        ``md5:`` or ``sha256:``, followed by the digest.
    path
        Destination.

    Raises
    ------
    InputError
        If the server cannot be reached, lacks the file, breaks off, or sends other content.
    OSError
        If it cannot be written.
    """
    import pooch

    algorithm, digest = known_hash.split(":")
    if path.is_file() and pooch.file_hash(str(path), algorithm) == digest:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"Downloading {url} to {path}\n")
    part = path.with_name(f".{path.name}.part")
    _download(url, part, path)
    found = pooch.file_hash(str(part), algorithm)
    if found != digest:
        part.unlink()
        difference = f"{algorithm.upper()} {found} instead of {digest}"
        raise _refused(url, f"is not the published file ({difference})", path)
    part.replace(path)


def _download(url: str, part: Path, path: Path) -> None:
    """Download to `part`, which becomes `path`; resume at its end if the server supports it."""
    import requests

    start = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "evomal", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT)
    except requests.RequestException as error:
        raise _refused(url, f"cannot be reached ({_cause(error)})", path) from error
    with response:
        if response.status_code == HTTPStatus.OK:
            size = _save(response, part, path.name, 0)
        elif response.status_code == HTTPStatus.PARTIAL_CONTENT:
            size = _save(response, part, path.name, start)
        elif start and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing
        else:
            raise _refused(url, f"answers {response.status_code} {response.reason}", path)
    if size:
        raise _refused(
            url, f"broke off after {size} bytes, which are kept for the next attempt", path
        )


def _save(response: Response, part: Path, name: str, start: int) -> str:
    """Write the body to `part` from this position; return its size if it is incomplete."""
    from requests import RequestException

    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    with part.open("ab" if start else "wb") as file, _progress() as progress:
        bar = progress.add_task(name, total=total, completed=start)
        try:
            for chunk in response.iter_content(_CHUNK):
                progress.advance(bar, file.write(chunk))
                file.flush()  # a kill loses at most one chunk
            broken = False
        except RequestException:
            broken = True
        os.fsync(file.fileno())  # otherwise a power loss could leave an empty file
        size = file.tell()
    if total is None:
        return f"{size:,}" if broken else ""
    return f"{size:,} of {total:,}" if size < total else ""


def _refused(url: str, what: str, path: Path) -> InputError:
    """The error for a failed download."""
    return InputError(
        f"{url} {what}; check the network and try again, or put the file at {str(path)!r} yourself."
    )


def _cause(error: BaseException) -> str:
    """The operating system's message about a failed connection, if any."""
    from requests import RequestException

    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and not isinstance(inner, RequestException):
            return inner.strerror or str(inner)
        inner = inner.__context__
    return str(error)


def _progress() -> Progress:
    """A progress bar on stderr if that is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def checked_bytes(path: Path, md5: str) -> bytes:
    """The content of a file.

    Raises
    ------
    InputError
        If it cannot be read or its digest differs.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise damaged(path, error) from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise damaged(path, "its content differs from the published file")
    return content
