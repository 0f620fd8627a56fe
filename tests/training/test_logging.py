"""What a run writes down of itself."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from tensorboardX.proto.event_pb2 import Event

from stpyramid_jax.training import logging
from stpyramid_jax.training.logging import RunLog

FIGURES = {
    "loss": 1.0,
    "accuracy": 0.5,
    "learning_rate": 0.001,
    "gradient_norm": 3.0,
    "gradient_norm/spatial": 2.0,
    "update_norm": 0.1,
    "attention_entropy": 0.9,
    "steps_per_second": 2.0,
    "samples_per_second": 256.0,
    "data_wait": 0.1,
}


def lines_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def events_of(workdir):
    """All events in the order of writing: records of length, checksum, data, checksum."""
    events = []
    for path in sorted(workdir.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def test_a_resumed_log_has_every_step_once(tmp_path, capsys):
    with RunLog(tmp_path, 0, 40) as log:
        for step in (10, 20, 30):
            log.write(step, FIGURES)
            log.write_validation(step, {"mean_class_accuracy": step / 100})
    # Killed in the middle of a line, after the checkpoint of step 20; and a disk that lost blocks.
    path = tmp_path / "metrics.jsonl"
    damaged = b"\0\0\xff}\n{}\n[]\n" + path.read_bytes() + b'{"step": 40, "lo'
    path.write_bytes(damaged)
    with RunLog(tmp_path, 20, 40) as log:
        log.write(30, FIGURES | {"loss": 7.0})
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [10, 10, 20, 20, 30]
    assert lines[-1]["loss"] == 7.0
    assert lines[3] == {"step": 20, "validation/mean_class_accuracy": 0.2}
    assert "step 30/40  validation: mean class accuracy 0.300" in capsys.readouterr().err


def test_every_metric_is_written_and_tensorboard_groups_them(tmp_path):
    figures = FIGURES | {"utilisation": 0.41, "teraflops_per_second": 5.0, "device_memory": 2.0}
    with RunLog(tmp_path, 0, 40, {"seed": 3, "data": {"dir": "a <b> `c`\n"}}) as log:
        log.write(10, figures)
        log.write_validation(10, {"mean_class_accuracy": 0.25})
    assert lines_of(tmp_path)[0] == {"step": 10, **figures}
    values = [(e.step, value) for e in events_of(tmp_path) for value in e.summary.value]
    config = [value for _, value in values if "config" in value.tag]
    assert json.loads(config[0].tensor.string_val[0]) == {"seed": 3, "data": {"dir": "a <b> `c`\n"}}
    scalars = {v.tag: (step, v.simple_value) for step, v in values if "config" not in v.tag}
    groups = {
        "training": {"loss", "accuracy", "learning_rate", "update_norm", "attention_entropy"},
        "speed": {*figures} & {*logging._SPEED},
        "gradient_norm": {"spatial"},
        "validation": {"mean_class_accuracy"},
    }
    expected = {f"{group}/{name}" for group, names in groups.items() for name in names}
    assert scalars.keys() == expected | {"gradient_norm"}
    assert scalars["speed/utilisation"] == (10, pytest.approx(0.41))


def test_tensorboard_forgets_what_a_resumed_run_does_again(tmp_path):
    with RunLog(tmp_path, 5, 40) as log:
        log.write(10, FIGURES)
    starts = [e.step for e in events_of(tmp_path) if e.WhichOneof("what") == "session_log"]
    assert starts == [6]


def test_other_processes_write_nothing(tmp_path, capsys):
    with RunLog(tmp_path, 0, 40, {"seed": 1}, active=False) as log:
        log.write(10, FIGURES)
        log.write_validation(10, {"mean_class_accuracy": 0.25})
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_a_line_says_what_matters_first(tmp_path, capsys):
    with RunLog(tmp_path, 0, 350_000) as log:
        log.write(70_000, FIGURES | {"utilisation": 0.41})
        log.write(350_000, FIGURES | {"steps_per_second": 0.0})
    first, last = capsys.readouterr().err.splitlines()
    assert first == (
        "step 70000/350000  ETA 38:53:20  loss 1.000  accuracy 0.50  data wait 10%  "
        "2.00 steps/s  41% of peak"
    )
    assert len(first) <= 100
    assert "ETA ?" in last
    assert "peak" not in last


PROGRAM = """
import sys
from pathlib import Path
from stpyramid_jax.training import logging
from stpyramid_jax.training.logging import RunLog
figures = {"loss": 1.0, "accuracy": 0.5, "steps_per_second": 2.0, "data_wait": 0.1}
with RunLog(Path(sys.argv[1]), 0, 40) as log:
    log.write(30, figures | {"utilisation": 0.41})
    log.write_validation(30, {"mean_class_accuracy": 0.25})
"""


@pytest.mark.parametrize("columns", [60, 100])
def test_a_terminal_has_one_line_with_a_bar(tmp_path, columns):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path],
        env=environment | {"TERM": "xterm"},
        stderr=theirs,
        check=True,
    )
    os.close(theirs)
    seen = b""
    while chunk := _read(ours):
        seen += chunk
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert max(map(len, lines)) <= columns
    assert "step 30/40  validation: mean class accuracy 0.250" in lines
    shown = [line for line in lines if line.startswith("step 30/40  ETA 0:00:05  loss 1.000")]
    assert shown
    assert ("41% of peak" in shown[-1]) == ("━" in shown[-1]) == (columns == 100)


def _read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so where the other side has gone
        return b""
