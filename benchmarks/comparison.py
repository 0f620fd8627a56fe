"""What the benchmarks share: implementations timed in turn, a table of the results, a JSON file."""

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

# Idle threads of OpenMP and of XLA spin for some milliseconds before they sleep: they would take
# cores from whichever comes next.
PAUSE = 0.02
# What one measurement lasts at least, by as many calls as that takes.
SHORTEST = 0.02

_TABLE = "{:44} {:>9} {:>9} {:9} {:>6}  {}"


class Row(NamedTuple):
    """A line of the table: the same case by this project and by a peer.

    Attributes:
      unit: `ms` or `px`, of which less is better, or a rate such as `images/s`.
    """

    case: str
    peer: str
    ours: float
    theirs: float
    unit: str

    @property
    def ratio(self) -> float:
        """Above 1 where this project is better."""
        return self.ours / self.theirs if self.unit.endswith("/s") else self.theirs / self.ours


def options(description: str) -> argparse.Namespace:
    """The command line of every benchmark: `quick`, `repetitions` and `json`."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a subset, in less than 50 seconds")
    parser.add_argument("--repetitions", type=int, default=7, help="of which the median is taken")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the results")
    chosen = parser.parse_args()
    if chosen.repetitions < 1:
        parser.error(f"--repetitions={chosen.repetitions}: at least 1")
    if chosen.json and not chosen.json.absolute().parent.is_dir():
        parser.error(f"--json={chosen.json}: there is no folder {chosen.json.absolute().parent}")
    return chosen


def require(*packages: str) -> None:
    """Ends the program with one line if a peer is not installed, or not for the same device."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            _refuse(f"the peer of this benchmark, {package}, is not installed; pip install it")
    if "torch" in packages and jax.default_backend() == "gpu":
        import torch

        if not torch.cuda.is_available():
            _refuse(
                "JAX runs on a GPU, PyTorch does not; install it with CUDA, or compare on CPU "
                "with JAX_PLATFORMS=cpu"
            )


def _refuse(line: str) -> None:
    print(line, file=sys.stderr)
    raise SystemExit(2)


def in_turn(runs: Sequence[Callable[[], Any]], repetitions: int) -> list[float]:
    """Median seconds of a call of each, which must return when its result is there.

    Each repetition measures all of them, one after the other, so that what slows the machine for a
    while slows all. All must have been called before, so that they are compiled.
    """
    calls = [max(1, math.ceil(SHORTEST / _seconds(run, 1))) for run in runs]
    samples = [
        [_seconds(run, count) for run, count in zip(runs, calls, strict=True)]
        for _ in range(repetitions)
    ]
    return [statistics.median(of_one) for of_one in zip(*samples, strict=True)]


def _seconds(run: Callable[[], Any], calls: int) -> float:
    time.sleep(PAUSE)
    began = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - began) / calls


def ranked(candidates: Mapping[str, Callable[[], Any]], repetitions: int) -> list[str]:
    """Names by time, the fastest first; what fails is told on stderr and left out."""
    able = {}
    for name, run in candidates.items():
        try:
            run()
            able[name] = run
        except Exception as error:
            reason = " ".join(str(error).split())[:150]
            print(f"{name} fails: {type(error).__name__}: {reason}", file=sys.stderr)
    medians = in_turn(list(able.values()), repetitions)
    return [name for _, name in sorted(zip(medians, able, strict=True))]


def check_equal(case: str, ours: Iterable[Any], theirs: Iterable[Any], tolerance: float) -> None:
    """Raises ValueError where two arrays differ, on average, by more than a part of their size.

    An array's size is the mean of its absolute values, or a thousandth of the largest array's: some
    gradients are zero but for rounding.
    """
    ours, theirs = list(ours), list(theirs)
    sizes = [float(np.abs(array).mean()) for array in theirs]
    for number, (a, b, size) in enumerate(zip(ours, theirs, sizes, strict=True)):
        size = max(size, 1e-3 * max(sizes))
        error = np.abs(a - b).mean() / size if a.shape == b.shape else np.inf
        if not error < tolerance:
            raise ValueError(
                f"{case}: result {number}, {a.shape} here and {b.shape} there, differs by "
                f"{error:.2g} of its size, more than {tolerance}; not timed"
            )


def hardware() -> dict[str, Any]:
    """Processor, the cores that may be used, and the GPU if JAX has one."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"cpu": (*names, platform.processor(), platform.machine())[0], "cores": cores}
    if jax.default_backend() != "cpu":
        found["gpu"] = jax.devices()[0].device_kind
    return found


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of installed packages."""
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found}


def tabulated(rows: Iterable[Row], packages: Iterable[str]) -> Iterator[Row]:
    """The same rows, each printed as it comes below what they were measured on and with."""
    for facts in (hardware(), versions(packages)):
        print(", ".join(f"{name} {fact}" for name, fact in facts.items()))
    print("\n" + _TABLE.format("case", "ours", "theirs", "unit", "ratio", "peer"), flush=True)
    for row in rows:
        numbers = (f"{row.ours:.4g}", f"{row.theirs:.4g}", row.unit, f"{row.ratio:.2f}")
        print(_TABLE.format(row.case, *numbers, row.peer), flush=True)
        yield row


def write(path: Path, rows: Iterable[Row], packages: Iterable[str], notes: Any = None) -> None:
    """The rows with hardware and versions as JSON; a file that is there is replaced at the end."""
    content = {
        "hardware": hardware(),
        "versions": versions(packages),
        "rows": [{**row._asdict(), "ratio": row.ratio} for row in rows],
        **({} if notes is None else {"notes": notes}),
    }
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)
