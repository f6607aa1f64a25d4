"""The state of Algorithm 1 on a loss, from which it continues bit-identically."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import load, save
from torch import Tensor


@dataclass(frozen=True)
class TuningState:
    """The weights of a loss and the state of Adam after some meta steps.

    Attributes
    ----------
    step
        Meta steps made.
    phi, mean, square
        φ, and Adam's running means of its gradient and of the square of that; detached.
    finite
        Whether all values so far were finite.
    active
        Whether it is still tuned; a group checks for diverged losses only now and then.
    """

    step: int
    phi: Tensor
    mean: Tensor
    square: Tensor
    finite: bool = True
    active: bool = True

    @classmethod
    def at_start(cls, phi: Tensor) -> TuningState:
        """Before the first meta step."""
        return cls(0, phi, torch.zeros_like(phi), torch.zeros_like(phi))


class TuningPaused(Exception):  # noqa: N818 - not an error
    """The time to pause came before the last meta step.

    Attributes
    ----------
    states
        The state of every loss.
    """

    def __init__(self, states: Sequence[TuningState]) -> None:
        super().__init__()
        self.states = list(states)


def states_to_bytes(states: Sequence[TuningState]) -> bytes:
    """As a safetensors file."""
    tensors: dict[str, Tensor] = {}
    for index, state in enumerate(states):
        place = torch.tensor([state.step, state.finite, state.active], dtype=torch.int64)
        parts = {"phi": state.phi, "mean": state.mean, "square": state.square, "place": place}
        tensors |= {f"{index}.{name}": part.cpu().contiguous() for name, part in parts.items()}
    return save(tensors)


def states_from_bytes(content: bytes, device: torch.device) -> list[TuningState]:
    """What `states_to_bytes` made into these bytes, on a device."""
    tensors = load(content)
    states = []
    for index in range(len(tensors) // 4):
        step, finite, active = tensors[f"{index}.place"].tolist()
        phi, mean, square = (
            tensors[f"{index}.{name}"].to(device) for name in ("phi", "mean", "square")
        )
        states.append(TuningState(step, phi, mean, square, bool(finite), bool(active)))
    return states
