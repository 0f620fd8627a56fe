"""Progress for people: a bar with the time left on a terminal, plain lines otherwise, on stderr."""

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10


def say(line: str) -> None:
    """One line for people; standard output is for results."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress_bar(total: int, unit: str) -> Iterator[Callable[..., None]]:
    """Gives `show(done, note="")`, to be called with how many of `total` are done so far.

    The time left is estimated from what was done since the first call, so that work which was
    finished before counts as done and not as fast.
    """

    def text(done: int, note: str) -> str:
        return f"{done}/{total} {unit}{note and ', '}{note}"

    if sys.stderr.isatty():
        columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), speed_estimate_period=600) as bar:
            task = None

            def show(done: int, note: str = "") -> None:
                nonlocal task
                if task is None:
                    task = bar.add_task(text(done, note), total=total, completed=done)
                bar.update(task, completed=done, description=text(done, note))

            yield show
        return

    first, began, spoken = None, 0.0, 0.0

    def speak(done: int, note: str = "") -> None:
        nonlocal first, began, spoken
        now = time.monotonic()
        if first is None:
            first, began, spoken = done, now, now
        if now - spoken >= _SECONDS_BETWEEN_LINES:
            spoken = now
            rate = (done - first) / max(now - began, 1e-9)
            left = datetime.timedelta(seconds=round((total - done) / rate)) if rate else "?"
            say(f"{text(done, note)}, {left} left")

    yield speak
