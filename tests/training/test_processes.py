"""Several processes, as a cluster starts them, with real messages between them."""

import os
import random
import re
import signal
import socket

import jax
import pytest

from stpyramid_jax.training.interruption import EXIT_CODE
from stpyramid_jax.training.processes import connect
from tests.training.conftest import alike, ends, start, trained, wait_for_steps


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("host:1", None, None), "--num_processes, --process_id: missing"),
        ((None, 2, None), "--coordinator, --process_id: missing"),
        (("host:1", 2, None), "--process_id: missing"),
        (("host:1", 2, 2), "--process_id=2: 0 to 1"),
        (("host", 2, 0), "--coordinator=host: must be host:port"),
        (("host:x", 2, 0), "--coordinator=host:x: must be host:port"),
        (("host:99999", 2, 0), "must be host:port"),
        (("host:1", 0, 0), "--num_processes=0: at least 1"),
        (("host:1", 2, -1), "--process_id=-1: 0 to 1"),
    ],
)
def test_half_a_description_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        connect(*given)


def test_a_program_alone_stays_alone(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    connect()
    assert not jax.distributed.is_initialized()


def flags_of(port, process):
    return [f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={process}"]


def slurm_of(job, process):
    """What srun gives its tasks; the port hangs on the job's number."""
    ids = {"JOB_ID": job, "PROCID": process, "LOCALID": process, "NTASKS": 2}
    where = {"STEP_NODELIST": "localhost", "STEP_NUM_NODES": 1}
    return {f"SLURM_{name}": str(value) for name, value in (ids | where).items()}


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def alone(sprites, tmp_path_factory):
    """The same run by one process of eight devices."""
    workdir = tmp_path_factory.mktemp("alone")
    ((out, _),) = ends([start(sprites / "shards", workdir, devices=8)])
    return trained(workdir), out


@pytest.mark.slow
def test_two_processes_of_four_devices_train_as_one_of_eight(alone, sprites, tmp_path):
    """As Slurm starts them, with parameters divided over the devices of both."""
    job, processes = random.SystemRandom().randrange(2**20), []
    for process in range(2):
        mesh, environment = "--config.mesh.model=8", slurm_of(job, process)
        processes.append(start(sprites / "shards", tmp_path, mesh, **environment))
    (out, error), (other, _) = ends(processes)
    expected, table = alone
    assert "8 x cpu (cpu) of 2 processes" in error
    assert said(out)[0] == said(table)[0]
    assert not said(other)  # the first process speaks for all
    found = trained(tmp_path)
    assert found.history == expected.history
    alike(found.variables, expected.variables)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_with_a_checkpoint(sprites, tmp_path):
    port, processes = free_port(), []
    for process in range(2):
        flags = flags_of(port, process)
        more = ("--mode=train", "--config.training.steps=100000", "--config.training.log_every=1")
        processes.append(start(sprites / "shards", tmp_path, *more, *flags))
    wait_for_steps(tmp_path, 1, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    (_, first), (_, second) = ends(processes, expect=EXIT_CODE)
    step = trained(tmp_path, best=False).step
    for error in (first, second):
        assert f"stopped at step {step}, which is saved" in error


def said(out):
    """What the program says, without what XLA's library of messages does.

    Its threads write at the same time, so that the first part of a line can lie in another one.
    """
    gloo = re.compile(r"\[Gloo\]|peer ranks|^[\d\s:.]*$")
    return [line for line in out.splitlines() if not gloo.search(line)]
