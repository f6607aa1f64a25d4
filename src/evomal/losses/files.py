"""Loss files: human-readable JSON with a version, without pickle.

Large numbers of weights are in a safetensors file next to it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from evomal.errors import InputError, quoted
from evomal.losses.base import Loss
from evomal.losses.fields import packed_text
from evomal.losses.form import FLOATS, IGNORE_INDEX
from evomal.losses.known import HANDCRAFTED_LOSSES
from evomal.losses.log_cosh import LogCoshLoss
from evomal.losses.meta import MetaLoss
from evomal.losses.neural import NeuralLoss
from evomal.losses.symbolic import SymbolicLoss
from evomal.losses.taylor import TaylorLoss
from evomal.losses.tensor_file import read_phi, remove_tensors, tensor_content, tensor_name

FORMAT_VERSION = 3
LOSS_KINDS: dict[str, type[Loss]] = {
    "symbolic": SymbolicLoss,
    "network": NeuralLoss,
    "taylor": TaylorLoss,
    "log-cosh": LogCoshLoss,
    **HANDCRAFTED_LOSSES,
}
"""Classes that can be saved, by their name in the file."""

_SINCE_VERSION_2: dict[str, Any] = {"inputs": [], "weight": None, "ignore_index": IGNORE_INDEX}
_LONGEST = 2**24
"""Maximum size in bytes, about a thousand times that of a loss of maximum height."""


def loss_to_dict(loss: Loss) -> dict[str, Any]:
    """A loss as JSON values, with its kind.

    Raises
    ------
    InputError
        If `loss` is not one of evomal's losses, or has weights without values.
    """
    for tensor in loss.buffers() if isinstance(loss, Loss) else ():
        if tensor.is_meta or tensor.dtype not in FLOATS:
            raise InputError(
                f"Only losses with weights of 16 to 64 bits, not on the meta device, can be saved, "
                f"but these are {tensor.dtype} on {tensor.device}."
            )
    for kind, cls in LOSS_KINDS.items():
        if type(loss) is cls:
            return {"kind": kind, **loss.to_dict()}
    raise InputError(
        f"Only evomal's own losses can be saved, but this is a {type(loss).__name__}; "
        "save the state_dict of other modules with torch.save."
    )


def file_fields(loss: Loss) -> dict[str, Any]:
    """The fields of a loss file with all weights in it; raises as `loss_to_dict`."""
    return {"format": "evomal-loss", "version": FORMAT_VERSION, **loss_to_dict(loss)}


def loss_from_dict(fields: Any) -> Loss:
    """The loss that `loss_to_dict` described.

    Raises
    ------
    InputError
        If a field is missing, unknown, of the wrong type or out of range, or a weight is not
        finite or does not belong to the stored dtype.
    """
    if not isinstance(fields, dict):
        raise InputError(f"A stored loss must be a dictionary, got {quoted(fields)}.")
    kind = fields.get("kind")
    if not (isinstance(kind, str) and kind in LOSS_KINDS):
        raise InputError(
            f"The field 'kind' must be one of {', '.join(LOSS_KINDS)}, got {quoted(kind)}."
        )
    return LOSS_KINDS[kind].from_dict({k: v for k, v in fields.items() if k != "kind"})


def save_loss(
    loss: Loss, path: str | os.PathLike[str], notes: Mapping[str, Any] | None = None
) -> None:
    """Write a loss as JSON; an existing file, or the target of a link, is replaced atomically.

    The weights of a `NeuralLoss` go into a file next to it: copy or move both. If the path is a
    device or a pipe, such as ``/dev/stdout``, all weights are in the JSON. `notes` are JSON values
    about the loss, for readers of the file; `load_loss` ignores them.

    Raises
    ------
    InputError
        If the loss is not one of evomal's, has a non-finite weight, or `path` cannot be written.
    """
    path = _path(path)
    fields = file_fields(loss) | ({} if notes is None else {"notes": dict(notes)})
    if not loss_is_finite(loss):
        raise InputError("The loss has a non-finite weight, so it is not saved.")
    if not path.name:
        raise InputError(f"Cannot write the loss to {str(path)!r} (it is a folder).")
    path = Path(os.path.realpath(path))
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(_text(fields))
        elif isinstance(loss, MetaLoss) and loss.packed:
            _write_both(path, fields, loss.phi)
        else:
            _replace(path, _text(fields))
            remove_tensors(path)
    except OSError as error:
        raise InputError(
            f"Cannot write the loss to {str(path)!r} ({error.strerror}); choose another path."
        ) from error


def remove_loss(path: str | os.PathLike[str]) -> None:
    """Remove a loss file, if there is one, with the file of its weights.

    Raises
    ------
    OSError
        If it cannot be removed.
    """
    path = Path(path)
    path.unlink(missing_ok=True)
    remove_tensors(path)


def _text(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2) + "\n").encode()


def _write_both(path: Path, fields: dict[str, Any], phi: Tensor) -> None:
    """Write the loss file and its tensor file of φ, both or neither."""
    content = tensor_content(phi)
    beside = path.with_name(tensor_name(path, content))
    is_new = not beside.exists()
    _replace(beside, content)
    try:
        renamed = {("phi_file" if name == "phi" else name): of for name, of in fields.items()}
        _replace(path, _text({**renamed, "phi_file": beside.name}))
    except OSError:
        if is_new:
            beside.unlink()
        raise
    remove_tensors(path, keep=beside.name)


def _replace(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power loss could leave an empty file
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def load_loss(path: str | os.PathLike[str]) -> Loss:
    """Read a loss written by `save_loss`; byte order marks, including UTF-16, are accepted.

    Raises
    ------
    InputError
        If the file does not exist, is not a loss file, has a damaged field, or was written by a
        newer version of evomal.
    """
    path = _path(path)
    fields = _json(path)
    if not isinstance(fields, dict) or fields.pop("format", None) != "evomal-loss":
        raise InputError(f"{str(path)!r} is not a loss file written by evomal.")
    version = fields.pop("version", None)
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise InputError(
            f"{str(path)!r} has format version {quoted(version)}, but this evomal reads "
            f"versions up to {FORMAT_VERSION}; upgrade evomal."
        )
    fields.pop("notes", None)
    try:
        if "phi_file" in fields:
            fields = _with_phi(path, fields)
        return loss_from_dict(_upgraded(fields, version))
    except InputError as error:
        raise InputError(f"The loss file {str(path)!r} is damaged: {error}") from error
    except FileNotFoundError as error:
        newer = _json(path)
        if isinstance(newer, dict) and newer.get("phi_file") != fields["phi_file"]:
            return load_loss(path)  # the file has just been replaced
        raise InputError(
            f"The weights of the loss file {str(path)!r} are in {quoted(fields['phi_file'])}, "
            "which is not next to it; copy both files."
        ) from error


def _with_phi(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a loss file, with φ from its tensor file."""
    if "phi" in fields:
        raise InputError("There is a field 'phi' as well as 'phi_file'.")
    beside = Path(os.path.realpath(path))
    phi = read_phi(beside, fields["phi_file"], fields.get("dtype"))
    others = {name: value for name, value in fields.items() if name != "phi_file"}
    return {**others, "phi": packed_text(phi)}


def _upgraded(fields: dict[str, Any], version: int) -> dict[str, Any]:
    """Convert the fields of an older version to the current one."""
    if version == 1:
        fields = {**_SINCE_VERSION_2, **fields}
    if version <= 2:
        if "weights" in fields:
            fields["phi"] = fields.pop("weights")
        elif fields.get("weight") is None:
            fields["dtype"] = None
    return fields


def _path(path: str | os.PathLike[str]) -> Path:
    """A path that can be opened, or an `InputError`."""
    if not isinstance(path, str | os.PathLike) or "\0" in os.fspath(path):
        raise InputError(f"The loss file must be a path, not {quoted(path)}.")
    return Path(path)


def _json(path: Path) -> Any:
    """The JSON value in a file, which may begin with a byte order mark."""
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST + 1)
    except OSError as error:
        raise InputError(f"Cannot read the loss file {str(path)!r} ({error.strerror}).") from error
    if len(content) > _LONGEST:
        raise InputError(f"{str(path)!r} is not a loss file: it has more than {_LONGEST} bytes.")
    try:
        return json.loads(content, object_pairs_hook=_object)
    except InputError as error:
        raise InputError(f"The loss file {str(path)!r} is damaged: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is not a loss file: it is not JSON text.") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; its names must be unique."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise InputError("A field appears twice.")
    return fields


def loss_is_finite(loss: Loss) -> bool:
    """Whether all weights are finite."""
    return all(bool(one.isfinite().all()) for one in loss.buffers())
