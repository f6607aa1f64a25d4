"""Files of data sets: what a data set is, where its files are, how they get there."""

from __future__ import annotations

import hashlib
import sys
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from evomal.errors import InputError

Array = NDArray[Any]


@dataclass(frozen=True)
class ImageFacts:
    """What there is to know of a data set of images.

    Attributes
    ----------
    shape
        (channels, height, width).
    classes
        Number of classes.
    mean, deviation
        Of the training pixels in [0, 1], by channel.
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
    """A data set that a task can be made of.

    Attributes
    ----------
    name
        Name in task names and messages.
    files
        Paths below the data directory; none where the data comes with scikit-learn.
    read
        ``read(data_dir)``: (features (n, d), targets (n,)) of a table, or the uint8 images and
        labels of the official training and test sets.
    download
        ``download(data_dir)`` puts `files` there and checks them.
    images
        What there is to know of images; None for a table.
    hashes
        MD5 digests of files as published, by their paths.
    """

    name: str
    files: tuple[str, ...]
    read: Callable[[Path], tuple[Array, ...]]
    download: Callable[[Path], None]
    images: ImageFacts | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)

    def is_present(self, data_dir: Path) -> bool:
        """Whether every file is there, packed or unpacked."""
        return all(existing(data_dir / name) is not None for name in self.files)

    def presence(self, data_dir: Path) -> Literal["present", "absent"]:
        """The same in a word."""
        return "present" if self.is_present(data_dir) else "absent"

    def verify(self, data_dir: Path) -> None:
        """Raise an `InputError` if a file is not as published; unpacked ones are not checked."""
        for name, md5 in self.hashes.items():
            if (data_dir / name).is_file():
                checked_bytes(data_dir / name, md5)


def existing(path: Path) -> Path | None:
    """The file, or what torchvision leaves after unpacking it."""
    unpacked = path.with_suffix("") if path.suffix == ".gz" else path
    return next((found for found in (path, unpacked) if found.is_file()), None)


def damaged(path: Path, reason: object) -> InputError:
    """The error of a file that cannot be used."""
    return InputError(
        f"The data file {str(path)!r} is damaged ({reason}); delete it and fetch it again with "
        "--download."
    )


def fetch(data_dir: Path, urls: dict[str, str], hashes: dict[str, str]) -> None:
    """Download files by their path below `data_dir`, with checksums, saying so on stderr."""
    import pooch

    for name, url in urls.items():
        if existing(data_dir / name) is None:
            sys.stderr.write(f"Downloading {url} to {data_dir / name}\n")
            folder = (data_dir / name).parent
            pooch.retrieve(url, hashes[name], fname=Path(name).name, path=folder)


def fetch_archive(data_dir: Path, url: str, md5: str, hashes: Mapping[str, str]) -> None:
    """Download a tar archive and put some of its files below `data_dir`, each checked and whole."""
    import pooch

    sys.stderr.write(f"Downloading {url} to {data_dir}\n")
    archive = pooch.retrieve(url, f"md5:{md5}", fname=url.rpartition("/")[2], path=data_dir)
    with tarfile.open(archive) as tar:
        for name, expected in hashes.items():
            member = tar.extractfile(name)
            assert member is not None
            content = member.read()
            if hashlib.md5(content, usedforsecurity=False).hexdigest() != expected:
                raise ValueError(f"{name} in {archive} is not as published")
            path = data_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.draft")
            draft.write_bytes(content)
            draft.replace(path)


def checked_bytes(path: Path, md5: str) -> bytes:
    """The content of a file.

    Raises
    ------
    InputError
        If it cannot be read or its digest is another.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise damaged(path, error) from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise damaged(path, "its content is not as published")
    return content
