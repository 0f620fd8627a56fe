"""What a run writes down of itself."""

import json
import time

from stpyramid_jax.training.logging import Interval, RunLog


def test_an_interval_has_means_speed_and_wait(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    interval = Interval()
    for loss in (1.0, 3.0):
        with interval.waiting():
            now += 1
        now += 3
        interval.add({"loss": loss})
    assert interval.close() == {"loss": 2.0, "steps_per_second": 0.25, "data_wait": 0.25}
    now += 2
    interval.add({"loss": 5.0})
    assert interval.close() == {"loss": 5.0, "steps_per_second": 0.5, "data_wait": 0.0}


def test_compiling_does_not_count_as_speed(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    interval = Interval()
    now += 60
    interval.add({"loss": 1.0})
    interval.restart_clock()
    now += 2
    interval.add({"loss": 2.0})
    assert interval.close() == {"loss": 1.5, "steps_per_second": 0.5, "data_wait": 0.0}


def test_a_resumed_log_has_every_step_once(tmp_path, capsys):
    figures = {"loss": 1.0, "accuracy": 0.5, "steps_per_second": 2.0, "data_wait": 0.1}
    with RunLog(tmp_path, 0, 40) as log:
        for step in (10, 20, 30):
            log.write(step, figures)
    # Killed in the middle of a line, after the checkpoint of step 20.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    with RunLog(tmp_path, 20, 40) as log:
        log.write(30, figures | {"loss": 7.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert lines[-1]["loss"] == 7.0
    shown = capsys.readouterr().err.splitlines()[-1]
    assert shown == (
        "step 30/40  loss 7.000  accuracy 0.50  2.00 steps/s  waiting for data 10%  ETA 0:05"
    )
