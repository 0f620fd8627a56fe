"""A trace of a few steps of training, for a profiler."""

import contextlib
import shlex
from pathlib import Path
from typing import Any

import jax

from stpyramid_jax.progress import say

# The first steps may still warm up.
_SKIPPED, _STEPS = 2, 5


class Trace:
    """Writes what host and devices do in five steps to `workdir/trace`, where `asked`.

        with Trace(workdir, first, asked) as trace:
            for step in range(first, ...):
                with trace.step(step):
                    outputs = ...
                trace.after(step, outputs)

    A run that ends sooner, or fails, leaves a trace of the steps that it took.
    """

    def __init__(self, workdir: Path, first_step: int, asked: bool):
        self._folder = workdir / "trace"
        self._first, self._asked = first_step + _SKIPPED, asked
        self._running = False

    @contextlib.contextmanager
    def step(self, step: int):
        """Around everything that belongs to a step, the wait for its batch too."""
        if self._asked and step == self._first:
            # For ui.perfetto.dev, beside the profile for XProf.
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = True
        if not self._running:
            yield
            return
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def after(self, step: int, outputs: Any) -> None:
        """Ends the trace once the last of its steps has reached its `outputs`."""
        if self._running and step == self._first + _STEPS - 1:
            jax.block_until_ready(outputs)
            self._stop()

    def _stop(self) -> None:
        self._running = False
        jax.profiler.stop_trace()
        newest = max(self._folder.glob("plugins/profile/*"), key=lambda path: path.stat().st_mtime)
        say(
            f"trace from step {self._first}: {newest}; open its perfetto_trace.json.gz at "
            "https://ui.perfetto.dev, or all of it with `pip install xprof` and "
            f"`xprof --logdir={shlex.quote(str(self._folder))}`"
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._running:
            self._stop()
