"""What a run writes down: metrics.jsonl, TensorBoard events and a progress line."""

import collections
import contextlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import tensorboardX
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from stpyramid_jax.progress import say


class Interval:
    """Means of the metrics since the last report, steps per second, and the wait for data."""

    def __init__(self):
        self._begin()

    def _begin(self) -> None:
        self._began, self._waited = time.monotonic(), 0.0
        self._sums: dict[str, float] = collections.defaultdict(float)
        self._steps = self._untimed = 0

    @contextlib.contextmanager
    def waiting(self):
        """Around whatever waits for the input."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def add(self, metrics: Mapping[str, float]) -> None:
        """The metrics of one step."""
        self._steps += 1
        for name, value in metrics.items():
            self._sums[name] += value

    def restart_clock(self) -> None:
        """Leaves the time until now out of the speed; the metrics stay."""
        self._began, self._waited, self._untimed = time.monotonic(), 0.0, self._steps

    def close(self) -> dict[str, float]:
        """The interval's figures; the next one begins."""
        elapsed = time.monotonic() - self._began
        means = {name: total / self._steps for name, total in self._sums.items()}
        figures = means | {
            "steps_per_second": (self._steps - self._untimed) / elapsed,
            "data_wait": self._waited / elapsed,
        }
        self._begin()
        return figures


class RunLog:
    """Writes the metrics of a run, from `start` to `steps`.

    A resumed run drops the lines of `metrics.jsonl` that lie after the checkpoint it resumes
    from, so that every step stands there once.
    """

    def __init__(self, workdir: Path, start: int, steps: int):
        path = workdir / "metrics.jsonl"
        kept = []
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= start]
        path.write_text("".join(line + "\n" for line in kept))
        self._jsonl = path.open("a")
        self._events = tensorboardX.SummaryWriter(str(workdir), purge_step=start + 1)
        self._steps = steps
        self._bar = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=steps, completed=start)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records the metrics of `step`; `steps_per_second` and `data_wait` are among them."""
        self._jsonl.write(json.dumps({"step": step, **metrics}) + "\n")
        self._jsonl.flush()
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)
        remaining = (self._steps - step) / metrics["steps_per_second"]
        text = (
            f"loss {metrics['loss']:.3f}  accuracy {metrics['accuracy']:.2f}  "
            f"{metrics['steps_per_second']:.2f} steps/s  "
            f"waiting for data {metrics['data_wait']:.0%}  "
            f"ETA {int(remaining // 60)}:{int(remaining % 60):02d}"
        )
        self._bar.update(self._task, completed=step, description=text)
        if self._bar.disable:
            say(f"step {step}/{self._steps}  {text}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.stop()
        self._events.close()
        self._jsonl.close()
