"""Ctrl-C and SIGTERM: stop the work in order, over several processes at the same place; a second one ends at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rflbat.ranks import Ranks

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_signals(ranks: Ranks) -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C and SIGTERM back until all ranks are at the same place; a second one acts as ever.

    A process alone is left as it is. So is a thread that is not the main one: signals are not its own.

    Args:
        ranks: this process' place.

    Yields:
        a function that says whether this process has been asked to stop.
    """
    asked: list[int] = []
    if ranks.is_single or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def hold(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        restore()

    for number in SIGNALS:
        signal.signal(number, hold)
    try:
        yield lambda: bool(asked)
    finally:
        restore()


@contextmanager
def second_interrupt_ends_at_once() -> Iterator[None]:
    """Let the first Ctrl-C stop the work in order, and the second end the process, whatever it is doing then.

    Who calls the command from a program of his own has his own ideas of Ctrl-C, and keeps them.

    Yields:
        nothing.
    """

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    in_charge = threading.current_thread() is threading.main_thread()
    if not in_charge or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
