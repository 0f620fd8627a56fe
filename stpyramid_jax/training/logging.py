"""What a run writes down: metrics.jsonl, TensorBoard events, and a progress line."""

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from stpyramid_jax import disk
from stpyramid_jax.extras import without
from stpyramid_jax.progress import say

with without("torch"):  # its import takes seconds, and no tensors of PyTorch's are logged here
    import tensorboardX

# Figures of `Interval` that are no metrics of the step: a group of their own in TensorBoard.
_SPEED = (
    "steps_per_second",
    "samples_per_second",
    "data_wait",
    "teraflops_per_second",
    "utilisation",
    "device_memory",
)


class RunLog:
    """Writes the metrics of a run, from `start` to `steps`, where `active`: one process does.

    A resumed run drops the lines of `metrics.jsonl` that lie after the checkpoint it resumes
    from, so that every step stands there once. TensorBoard shows `record`, what `config.json`
    holds, as text.
    """

    def __init__(
        self,
        workdir: Path,
        start: int,
        steps: int,
        record: Mapping[str, Any] | None = None,
        active: bool = True,
    ):
        self._workdir, self._active, self._steps = workdir, active, steps
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            console=Console(stderr=True),
            expand=True,
            disable=not (active and sys.stderr.isatty()),
        )
        if not active:
            return
        path = workdir / "metrics.jsonl"
        _drop_after(path, start)
        self._jsonl = path.open("a")
        self._events = tensorboardX.SummaryWriter(str(workdir), purge_step=start + 1)
        if record:
            lines = json.dumps(record, indent=2).splitlines()
            self._events.add_text("config", "\n".join(f"    {line}" for line in lines), start)
        self._bar.start()
        self._task = self._bar.add_task(f"step {start}/{steps}", total=steps, completed=start)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Records the metrics of `step`, those of `Interval.close` among them."""
        if not self._active:
            return
        self._record(step, figures)
        text = _line(step, self._steps, figures)
        self._bar.update(self._task, completed=step, description=text)
        if self._bar.disable:
            say(text)

    def write_validation(self, step: int, figures: Mapping[str, float]) -> None:
        """Records what was measured on the clips held out, with the parameters after `step`."""
        if not self._active:
            return
        self._record(step, {f"validation/{name}": value for name, value in figures.items()})
        text = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in figures.items())
        say(f"step {step}/{self._steps}  validation: {text}")

    def _record(self, step: int, figures: Mapping[str, float]) -> None:
        values = {name: float(value) for name, value in figures.items()}
        try:
            self._append(step, values)
        except OSError as error:
            raise OSError(
                f"{self._workdir}: metrics cannot be written ({error}); make room, and the same "
                "command goes on from the last checkpoint"
            ) from error

    def _append(self, step: int, values: Mapping[str, float]) -> None:
        self._jsonl.write(json.dumps({"step": step, **values}) + "\n")
        self._jsonl.flush()
        for name, value in values.items():
            self._events.add_scalar(_tag(name, values), value, step)
        self._events.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._active:
            self._bar.stop()
            self._events.close()
            self._jsonl.close()


def _drop_after(path: Path, step: int) -> None:
    """Keeps the whole lines up to a step: a machine that stops may leave half of one, or none."""
    kept = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    disk.write(path, "".join(kept).encode())


def _tag(name: str, names: Iterable[str]) -> str:
    """TensorBoard groups by what stands before the first slash: `gradient_norm` with its parts."""
    if "/" in name or any(other.startswith(f"{name}/") for other in names):
        return name
    return f"speed/{name}" if name in _SPEED else f"training/{name}"


def _line(step: int, steps: int, figures: Mapping[str, float]) -> str:
    """What fits 100 columns; a narrower terminal loses what stands last."""
    speed, left = figures["steps_per_second"], "?"
    if speed:
        minutes, seconds = divmod(round((steps - step) / speed), 60)
        left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
    peak = f"  {figures['utilisation']:.0%} of peak" if "utilisation" in figures else ""
    return (
        f"step {step}/{steps}  ETA {left}  loss {figures['loss']:.3f}  "
        f"accuracy {figures['accuracy']:.2f}  data wait {figures['data_wait']:.0%}  "
        f"{speed:.2f} steps/s{peak}"
    )
