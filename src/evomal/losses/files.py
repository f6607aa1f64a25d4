"""Loss files: JSON that a person can read, without pickle, with a version."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from evomal.errors import InputError
from evomal.losses.base import Loss
from evomal.losses.known import HANDCRAFTED_LOSSES
from evomal.losses.symbolic import SymbolicLoss

FORMAT_VERSION = 2
LOSS_KINDS: dict[str, type[Loss]] = {"symbolic": SymbolicLoss, **HANDCRAFTED_LOSSES}
"""The classes that can be saved, by their name in the file."""


def loss_to_dict(loss: Loss) -> dict[str, Any]:
    """A loss as JSON values, with its kind.

    Raises
    ------
    InputError
        If `loss` is not one of evomal's losses.
    """
    for kind, cls in LOSS_KINDS.items():
        if type(loss) is cls:
            return {"kind": kind, **loss.to_dict()}
    raise InputError(
        f"Only evomal's own losses can be saved, but this is a {type(loss).__name__}; "
        "save the state_dict of other modules with torch.save."
    )


def loss_from_dict(fields: dict[str, Any]) -> Loss:
    """The loss that `loss_to_dict` described."""
    return LOSS_KINDS[fields["kind"]].from_dict(fields)


def save_loss(loss: Loss, path: str | os.PathLike[str]) -> None:
    """Write a loss as JSON; an existing file is replaced in one step.

    Raises
    ------
    InputError
        If the loss is not one of evomal's, has a non-finite weight, or `path` cannot be written.
    """
    path = Path(path)
    fields = {"format": "evomal-loss", "version": FORMAT_VERSION, **loss_to_dict(loss)}
    if not loss_is_finite(loss):
        raise InputError("The loss has a weight that is not finite, so it is not saved.")
    text = json.dumps(fields, indent=2)
    if not path.name:
        raise InputError(f"Cannot write the loss to {str(path)!r} (it is a folder).")
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())  # or a power loss could leave an empty file
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise InputError(
            f"Cannot write the loss to {str(path)!r} ({error.strerror}); choose another place."
        ) from error


def load_loss(path: str | os.PathLike[str]) -> Loss:
    """Read a loss that `save_loss` wrote.

    Raises
    ------
    InputError
        If there is no such file, it is no loss file, or a newer version of evomal wrote it.
    """
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read the loss file {str(path)!r} ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is not a loss file: it is not JSON text.") from error
    if not isinstance(fields, dict) or fields.get("format") != "evomal-loss":
        raise InputError(f"{str(path)!r} is not a loss file that evomal wrote.")
    if fields.get("version") not in range(1, FORMAT_VERSION + 1):
        raise InputError(
            f"{str(path)!r} has format version {fields.get('version')!r}, but this evomal reads "
            f"versions up to {FORMAT_VERSION}; upgrade evomal."
        )
    try:
        loss = loss_from_dict(fields)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise InputError(f"The loss file {str(path)!r} is damaged: {error}") from error
    if not loss_is_finite(loss):
        raise InputError(f"The loss file {str(path)!r} is damaged: a weight is not finite.")
    return loss


def loss_is_finite(loss: Loss) -> bool:
    """Whether all weights are finite."""
    return bool(loss.weights.isfinite().all())
