"""Means of metrics and the speed of a run, from one report to the next."""

import collections
import contextlib
import time
from collections.abc import Iterable, Mapping

import jax

from stpyramid_jax.performance import device_memory, peak_flops


class Interval:
    """Means of the metrics since the last report, and how fast the run was.

    Args:
      samples: of a step, over all devices.
      flops: of a step, over all devices (`performance.step_flops`), where known.
      devices: all that share the step, to compare its speed with their peak.
    """

    def __init__(
        self, samples: int, flops: float | None = None, devices: Iterable[jax.Device] = ()
    ):
        devices = list(devices)
        peaks = [peak for device in devices if (peak := peak_flops(device))]
        self._peak = sum(peaks) if len(peaks) == len(devices) else None
        self._samples, self._flops = samples, flops
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
        """The interval's figures; the next one begins.

        Beside the means: `steps_per_second`, `samples_per_second`, `data_wait` (share of the time)
        and, where they are known, `teraflops_per_second` of all devices, `utilisation` (its share
        of their peak) and `device_memory` (peak so far of the fullest device, in GiB).
        """
        elapsed = max(time.monotonic() - self._began, 1e-9)
        speed = (self._steps - self._untimed) / elapsed
        figures = {name: total / self._steps for name, total in self._sums.items()} | {
            "steps_per_second": speed,
            "samples_per_second": speed * self._samples,
            "data_wait": self._waited / elapsed,
        }
        if self._flops:
            figures["teraflops_per_second"] = speed * self._flops / 1e12
            if self._peak:
                figures["utilisation"] = speed * self._flops / self._peak
        if "peak" in (memory := device_memory()):
            figures["device_memory"] = memory["peak"] / 2**30
        self._begin()
        return figures
