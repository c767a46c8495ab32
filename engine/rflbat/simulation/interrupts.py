"""Ctrl-C and SIGTERM: the first stops a run cleanly, on all ranks after the same round; the second ends it at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rflbat.ranks import Ranks

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_signals(ranks: Ranks) -> Iterator[Callable[[], bool]]:
    """Defer Ctrl-C and SIGTERM until all ranks have reached the same point; a second signal acts as usual.

    Signals of a single process are not deferred, and neither are those outside the main thread, which cannot handle
    signals.

    Args:
        ranks: this process' rank.

    Yields:
        a function that returns whether this process has been asked to stop.
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
    """Let the first Ctrl-C stop the run cleanly, and the second end the process immediately.

    If the calling program has its own handler of Ctrl-C, it is kept.

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
