"""Progress for people: a bar with ETA on a terminal, plain lines otherwise, on standard error."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 10


def say(line: str) -> None:
    """One line for people; standard output is for results."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress_bar(task: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows how much of `total` is done; gives a function that adds to what is done."""
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            row = bar.add_task(task, total=total)
            yield lambda amount: bar.advance(row, amount)
        return

    began = spoken = time.monotonic()
    done = 0

    def advance(amount: int) -> None:
        nonlocal done, spoken
        done += amount
        now = time.monotonic()
        if now - spoken >= _SECONDS_BETWEEN_LINES or done >= total:
            spoken = now
            eta = (now - began) / max(done, 1) * (total - done)
            say(f"{task}: {done}/{total}  ETA {int(eta // 60)}:{int(eta % 60):02d}")

    yield advance
