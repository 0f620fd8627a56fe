"""A run that is asked to stop: by SIGTERM, as schedulers and clouds do, or by Ctrl-C."""

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75
"""Of a run that wrote a checkpoint and stopped: EX_TEMPFAIL of sysexits.h, "try again later"."""

_POINTS = itertools.count(1)
# Where several processes ask: JAX counts on, over all trainings of a process.


class Interrupted(Exception):
    """The run was asked to stop and did, with its checkpoint written."""


@contextlib.contextmanager
def interruption() -> Iterator[Callable[[int], bool]]:
    """Gives `requested(step)`: whether the run is to write a checkpoint and stop before a step.

    Where there are several processes they all must ask, at each step, and all are told the same:
    JAX catches SIGTERM in any of them and has them agree on a step. A second Ctrl-C ends the
    program at once. Outside the main thread Python cannot catch signals, and none is.
    """
    asked, several = threading.Event(), jax.process_count() > 1

    def ask(number, frame):
        asked.set()
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if several:
            signal.raise_signal(signal.SIGTERM)  # which JAX listens to

    main = threading.current_thread() is threading.main_thread()
    before = {
        number: signal.signal(number, ask)
        for number in ((signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT))
        # What is ignored stays so: it is how a program is put into the background.
        if main and signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield (
            (lambda step: multihost_utils.reached_preemption_sync_point(next(_POINTS)))
            if several
            else lambda step: asked.is_set()
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
