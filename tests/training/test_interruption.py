"""Runs that are asked to stop, killed, or out of disk: nothing is lost, and the same bits come."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from stpyramid_jax.training.interruption import EXIT_CODE, interruption
from tests.conftest import ROOT
from tests.training.conftest import ends, leaves, start, trained, wait_for_steps

STEPS = 8
KILLS = 1  # raise it to try more

# Files of more bytes than the first argument cannot be written, as on a full disk.
LIMITED = """
import resource, runpy, sys
size = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_sigterm_leaves_an_ignored_interrupt_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruption() as requested:
            signal.raise_signal(signal.SIGTERM)
            assert requested(1)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def interruptible():
    """What a terminal gives; in the background interrupts are ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_heard_once_and_handlers_come_back(number):
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with interruption() as requested:
        assert not requested(1)
        signal.raise_signal(number)
        assert requested(2)
        with pytest.raises(KeyboardInterrupt):  # the second time at once
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruption():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_threads_other_than_the_main_one_listen_to_nothing():
    heard = []

    def train():
        with interruption() as requested:
            heard.append(requested(1))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert heard == [False]


def begin(shards, workdir, steps=STEPS, *more):
    """All clips train, so that every step has one line in the log."""
    arguments = ("--mode=train", f"--config.training.steps={steps}", "--config.data.validation=0")
    return start(shards, workdir, *arguments, "--config.training.log_every=1", *more, devices=2)


@pytest.fixture(scope="module")
def whole(sprites, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    ends([begin(sprites / "shards", workdir)])
    return workdir


def equal(workdir, whole):
    """The same bits and samples, and each step in the log once."""
    found, expected = trained(workdir), trained(whole)
    assert found.history == expected.history
    for (name, a), (_, b) in zip(leaves(found.variables), leaves(expected.variables), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_sigterm_saves_at_once_and_says_so(whole, sprites, tmp_path):
    process = begin(sprites / "shards", tmp_path)
    wait_for_steps(tmp_path, 3, process)
    process.send_signal(signal.SIGTERM)
    ((_, error),) = ends([process], expect=EXIT_CODE)
    last = error.strip().splitlines()[-1]
    step = trained(tmp_path).step
    assert 3 <= step < STEPS
    assert last == f"stopped at step {step}, which is saved: run the same again"
    ((_, error),) = ends([begin(sprites / "shards", tmp_path)])
    assert f"resumed from step {step} of {STEPS}" in error
    equal(tmp_path, whole)


@pytest.mark.slow
def test_killed_at_random_instants(whole, sprites, tmp_path):
    rng = random.Random(KILLS)
    for kill in range(KILLS):
        workdir = tmp_path / str(kill)
        process = begin(sprites / "shards", workdir)
        wait_for_steps(workdir, rng.randrange(1, STEPS - 1), process)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL  # and not at its end
        ends([begin(sprites / "shards", workdir)])
        equal(workdir, whole)


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_last_checkpoint_stays(whole, sprites, tmp_path):
    shards, steps = sprites / "shards", 4
    ends([begin(shards, tmp_path, steps)])
    size = str(100_000)  # less than the parameters take
    process = begin(shards, tmp_path)
    command = process.args
    process.kill()
    process.communicate()
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "2"}
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, size, *command[1:]],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 1, result.stderr
    # Threads of orbax may say what they met after it.
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert line.startswith(f"error: {tmp_path / 'checkpoints'}: a checkpoint cannot be written (")
    assert f"the same command goes on from step {steps}, the last whole one" in line
    assert trained(tmp_path).step == steps
