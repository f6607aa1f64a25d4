"""φ of a loss file as a safetensors file next to it, named by its content.

So a loss file always refers to its own φ, even if the writing process is killed: a new tensor file
is complete before the loss file refers to it, and is removed only when no longer referred to.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from evomal.errors import InputError, quoted
from evomal.losses.fields import dtype_name

_LARGEST = 2**28  # bytes, about ten thousand times the usual size
_NAME = r"\.([0-9a-f]{16})\.safetensors"


def tensor_content(phi: Tensor) -> bytes:
    """The content of a tensor file."""
    return save({"phi": phi.detach().cpu().contiguous()})


def tensor_name(loss_file: Path, content: bytes) -> str:
    """The name of a tensor file next to its loss file."""
    return f"{loss_file.name}.{_digest(content)}.safetensors"


def read_phi(loss_file: Path, name: Any, dtype: Any) -> Tensor:
    """φ from the tensor file of a loss file, with the dtype given there.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputError
        If it cannot be read, or has changed.
    """
    if not isinstance(name, str) or not (found := re.fullmatch(r"[^/\\\0]+" + _NAME, name)):
        raise InputError(f"The field 'phi_file' must name a tensor file, got {quoted(name)}.")
    try:
        with loss_file.with_name(name).open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"Its file {quoted(name)} cannot be read ({error.strerror}).") from error
    if _digest(content) != found[1]:
        raise InputError(f"The content of its file {quoted(name)} has changed.")
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise InputError(f"Its file {quoted(name)} contains no tensors.") from error
    if set(tensors) != {"phi"} or dtype_name(tensors["phi"]) != dtype:
        raise InputError(
            f"Its file {quoted(name)} must contain a single tensor phi of {quoted(dtype)}."
        )
    return tensors["phi"]


def remove_tensors(loss_file: Path, keep: str | None = None) -> None:
    """Remove the tensor files of a loss file except one, if possible."""
    own = re.compile(re.escape(loss_file.name) + _NAME)
    with contextlib.suppress(OSError):
        for entry in os.listdir(loss_file.parent):  # noqa: PTH208 - names are all that is asked for
            if own.fullmatch(entry) and entry != keep:
                loss_file.with_name(entry).unlink()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
