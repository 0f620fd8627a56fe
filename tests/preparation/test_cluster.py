"""Preparation on a cluster: processes are killed, each kind at a random instant; the same bytes."""

import contextlib
import importlib.util
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.preparation.conftest import tree, wait_for_work

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("distributed"), reason="needs distributed"),
]

# A shell lets its background jobs, and so their children, ignore Ctrl-C.
INTERRUPTIBLE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Cluster:
    """A scheduler and two workers, each started and ended by itself."""

    def __init__(self, folder, *options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        self._folder, self._options, self._running = folder, options, {}

    def start(self, *roles):
        host, port = self.address.removeprefix("tcp://").split(":")
        arguments = {
            "scheduler": ("--host", host, "--port", port),
            "worker": (
                *(self.address, "--nworkers=2", "--nthreads=1", "--memory-limit=0"),
                *(f"--local-directory={self._folder}", *self._options),
            ),
        }
        for role in roles:
            self._running[role] = subprocess.Popen(
                [
                    *(sys.executable, "-m", f"distributed.cli.dask_{role}"),
                    *("--no-dashboard", *arguments[role]),
                ],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def kill(self, role):
        process = self._running.pop(role)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def workers(self):
        """Processes that run jobs: those that their nannies spawned."""
        import psutil

        nanny = psutil.Process(self._running["worker"].pid)
        return [child for child in nanny.children() if "spawn_main" in str(child.cmdline())]

    def end(self):
        for role in list(self._running):
            self.kill(role)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """One for several tests: what was killed is started again."""
    cluster = Cluster(tmp_path_factory.mktemp("dask"))
    cluster.start("scheduler", "worker")
    yield cluster
    cluster.end()


@pytest.fixture
def odd_cluster(tmp_path):
    """Starts a cluster whose workers run some code first."""
    with contextlib.ExitStack() as stack:

        def start(code):
            (tmp_path / "preload.py").write_text(code)
            cluster = Cluster(tmp_path / "dask", f"--preload={tmp_path / 'preload.py'}")
            stack.callback(cluster.end)
            cluster.start("scheduler", "worker")
            return cluster

        yield start


@pytest.fixture
def command():
    """Starts the command on a cluster."""
    running = []

    def command(videos, out, cluster):
        flags = ("--dataset=folder", f"--videos={videos}", f"--out={out}", "--flow=dis")
        flags = (*flags, "--size=64x48", f"--scheduler={cluster.address}")
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", INTERRUPTIBLE, "data/prepare.py", *flags],
                cwd=ROOT,
                env={**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return running[-1]

    yield command
    for process in running:
        process.kill()
        process.communicate()


def ended(process):
    """Exit status and what was said on stderr, without progress."""
    _, error = process.communicate(timeout=120)
    lines = error.splitlines()
    return process.returncode, [s for s in lines if not re.match(r"\d+/\d+ |waiting for", s)]


def begun(process, out, seed):
    """At a random instant of its work."""
    wait_for_work(out, lambda: process.poll() is None)
    time.sleep(random.Random(seed).uniform(0, 0.3))
    return process


def test_workers_killed_cost_nothing_but_work(cluster, command, longer, longer_files, tmp_path):
    process = begun(command(longer, tmp_path / "out", cluster), tmp_path / "out", seed=2)
    random.Random(2).choice(cluster.workers()).kill()
    assert ended(process) == (0, [])
    assert tree(tmp_path / "out") == longer_files


def test_scheduler_killed(cluster, command, longer, longer_files, tmp_path):
    process = begun(command(longer, tmp_path / "out", cluster), tmp_path / "out", seed=3)
    cluster.kill("scheduler")
    gone = f"error: {cluster.address}: the scheduler is gone; the same command continues"
    assert ended(process) == (1, [gone])
    cluster.kill("worker")
    cluster.start("scheduler", "worker")
    assert ended(command(longer, tmp_path / "out", cluster)) == (0, [])
    assert tree(tmp_path / "out") == longer_files


def test_client_killed(cluster, command, longer, longer_files, tmp_path):
    process = begun(command(longer, tmp_path / "out", cluster), tmp_path / "out", seed=4)
    process.kill()
    process.wait()
    assert ended(command(longer, tmp_path / "out", cluster)) == (0, [])
    assert tree(tmp_path / "out") == longer_files


def test_interrupted_leaves_no_job(cluster, command, longer, longer_files, tmp_path):
    process = command(longer, tmp_path / "out", cluster)
    wait_for_work(tmp_path / "out", lambda: process.poll() is None)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, ["interrupted; the same command continues"])
    before = sorted((tmp_path / "out").iterdir())
    time.sleep(2)  # a job that was left would have written its shard by now
    assert sorted((tmp_path / "out").iterdir()) == before
    assert not [path for path in before if path.name.endswith(".part")]
    assert ended(command(longer, tmp_path / "out", cluster)) == (0, [])
    assert tree(tmp_path / "out") == longer_files


def test_video_that_kills_every_worker_is_named(odd_cluster, command, longer, tmp_path):
    cluster = odd_cluster(
        "import os, signal\n"
        "from stpyramid_jax.preparation.sources import videos\n"
        "def poisonous(path, size, frames=videos.frames):\n"
        "    if path.name.endswith('3.avi'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return frames(path, size)\n"
        "videos.frames = poisonous\n"
    )
    status, lines = ended(command(longer, tmp_path / "out", cluster))
    sign = "a worker died (killed, or out of memory) at B/é 3.avi (shard 5)"
    assert (status, lines) == (1, [f"error: {sign}; the same command continues"])
    assert not list((tmp_path / "out").glob("*.part"))


def test_worker_of_other_versions_is_refused(odd_cluster, command, longer, tmp_path):
    cluster = odd_cluster("import cv2\ncv2.__version__ = '0.0'\n")
    status, lines = ended(command(longer, tmp_path / "out", cluster))
    assert (status, len(lines)) == (1, 1)
    assert re.match(
        r"error: worker on \S+: prepared with libraries\.opencv = '\d.*', now '0\.0'", lines[0]
    )
