"""Signals that end a program: Ctrl-C held back, SIGTERM and SIGHUP treated as Ctrl-C is."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_ENDING = [
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # Windows has no SIGHUP


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, as a cluster or a closed terminal sends it; `signal` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = number


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP wait until the end of the block.

    A process begun inside never sees them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, *_ENDING])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def termination_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Terminated` inside the block; a second signal ends the process.

    Only in the main thread, and only those signals that the program has not given a handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]

    def give_back() -> None:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)

    def interrupt(number: int, _: FrameType | None) -> None:
        give_back()
        raise Terminated(number)

    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        give_back()
