"""Means, speed and waiting of an interval, by a clock that the test turns."""

import time
import types

import pytest

from stpyramid_jax.training import interval as module
from stpyramid_jax.training.interval import Interval


@pytest.fixture
def clock(monkeypatch):
    now = types.SimpleNamespace(time=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.time)
    return now


def test_an_interval_has_means_speed_and_wait(clock):
    interval = Interval(samples=8)
    for loss in (1.0, 3.0):
        with interval.waiting():
            clock.time += 1
        clock.time += 3
        interval.add({"loss": loss})
    assert interval.close() == {
        "loss": 2.0,
        "steps_per_second": 0.25,
        "samples_per_second": 2.0,
        "data_wait": 0.25,
    }
    clock.time += 2
    interval.add({"loss": 5.0})
    assert interval.close() == {
        "loss": 5.0,
        "steps_per_second": 0.5,
        "samples_per_second": 4.0,
        "data_wait": 0.0,
    }


def test_saving_does_not_count_as_speed(clock):
    interval = Interval(samples=1)
    clock.time += 60
    interval.add({"loss": 1.0})
    interval.restart_clock()
    clock.time += 2
    interval.add({"loss": 2.0})
    figures = interval.close()
    assert (figures["loss"], figures["steps_per_second"]) == (1.5, 0.5)


def test_an_interval_that_no_step_timed_has_no_speed(clock):
    interval = Interval(samples=4, flops=1e12)
    interval.add({"loss": 1.0})
    interval.restart_clock()
    figures = interval.close()
    assert figures["loss"] == 1.0
    assert figures["steps_per_second"] == figures["teraflops_per_second"] == 0


def test_utilisation_is_a_share_of_the_peak_of_all_devices(clock):
    t4 = types.SimpleNamespace(device_kind="Tesla T4")  # 65 TFLOP/s
    unknown = types.SimpleNamespace(device_kind="abacus")

    def figures(flops, *devices):
        interval = Interval(4, flops, devices)
        interval.add({})
        clock.time += 2
        return interval.close()

    both = figures(130e12, t4, t4)
    assert both["teraflops_per_second"] == 65
    assert both["utilisation"] == 0.5
    for devices in ([], [unknown], [t4, unknown]):
        assert figures(130e12, *devices)["teraflops_per_second"] == 65
        assert "utilisation" not in figures(130e12, *devices)
    assert "teraflops_per_second" not in figures(None, t4)


def test_memory_is_written_where_the_device_tells(monkeypatch, clock):
    assert "device_memory" not in Interval(1).close()
    monkeypatch.setattr(module, "device_memory", lambda: {"in_use": 1, "peak": 3 * 2**30})
    assert Interval(1).close()["device_memory"] == 3
