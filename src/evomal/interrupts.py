"""Signals that end a program: deferring Ctrl-C, and treating SIGTERM and SIGHUP like it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_ENDING = [
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # Windows has no SIGHUP


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, as sent by a cluster or a closed terminal; `signal` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = number


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Defer Ctrl-C, SIGTERM and SIGHUP until the end of the block.

    A process started inside never receives them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    numbers = [signal.SIGINT, *_ENDING]
    arrived: list[int] = []
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        # The mask applies to this thread only: another thread can receive the signal.
        handlers = {number: signal.getsignal(number) for number in numbers}
        handlers = {n: h for n, h in handlers.items() if h not in (None, signal.SIG_IGN)}
    for number in handlers:
        signal.signal(number, lambda number, _: arrived.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number in arrived:
            signal.raise_signal(number)


@contextlib.contextmanager
def termination_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Terminated` inside the block; a second signal ends the process.

    Only in the main thread, and only for signals without a handler of the program.
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
