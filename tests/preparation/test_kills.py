"""Killed at random instants, on one machine and on many, and run again: the same bytes.

`test_run.py` kills a single process, and at each instant at which a file appears or goes.
"""

import importlib.util
import multiprocessing
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stpyramid_jax.preparation.choices import Choices
from stpyramid_jax.preparation.run import prepare

ROOT = Path(__file__).parents[2]
INSTANTS = 1  # for each kind of kill; some twenty were tried by hand

# A shell lets its background jobs, and so their children, ignore Ctrl-C.
INTERRUPTIBLE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""

distributed = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("distributed"), reason="needs distributed"),
]


def tree(folder):
    """Every file, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def quick(videos, out, **settings):
    return prepare(Choices("folder", videos, out, **{"flow": "dis", "size": (64, 48), **settings}))


@pytest.fixture(scope="module")
def longer(tmp_path_factory, make):
    """Eight clips: work for some seconds."""
    folder = tmp_path_factory.mktemp("videos") / "my clips"
    for seed in range(8):
        make.write_clip(folder / "AB"[seed % 2] / f"é {seed}.avi", make.clip(seed, 40 + seed))
    return folder


@pytest.fixture(scope="module")
def unbroken(longer, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "out"
    quick(longer, out, workers=1)
    return tree(out)


def wait_for_work(out, alive):
    while not list(out.glob(".shard-*.part")):
        assert alive(), "ended before it began a shard"
        time.sleep(0.005)


def test_parent_of_workers_killed(longer, unbroken, tmp_path):
    rng = random.Random(0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stpyramid_jax.preparation.run"])
    unfinished = 0
    for instant in range(INSTANTS):
        out = tmp_path / str(instant)
        parent = context.Process(target=quick, args=(longer, out), kwargs={"workers": 2})
        parent.start()
        wait_for_work(out, parent.is_alive)
        time.sleep(rng.uniform(0, 0.5))
        parent.kill()
        parent.join()
        unfinished += not (out / "dataset.json").exists()
        quick(longer, out, workers=1)  # at once, while its workers may still be about to end
        assert tree(out) == unbroken
    assert unfinished


def test_worker_killed(longer, unbroken, tmp_path):
    rng = random.Random(1)
    lines = []
    for instant in range(INSTANTS):
        out = tmp_path / str(instant)

        def run(out=out):
            try:
                quick(longer, out, workers=2)
            except RuntimeError as error:
                lines.append(str(error))

        thread = threading.Thread(target=run)
        thread.start()
        wait_for_work(out, thread.is_alive)
        time.sleep(rng.uniform(0, 0.3))  # of some seconds that the work takes
        rng.choice(multiprocessing.active_children()).kill()
        thread.join()
        assert not list(out.glob("*.part"))
        quick(longer, out, workers=1)
        assert tree(out) == unbroken
    assert any(".avi" in line for line in lines)
    for line in lines:
        video = r"[AB]/é \d\.avi \(shard \d\)"
        at = rf"( at {video}( or {video})?)?"
        sign = rf"a worker died \(killed, or out of memory\){at}; the same command continues"
        assert re.fullmatch(sign, line)


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


@pytest.fixture
def cluster(tmp_path):
    clusters = []

    def cluster(*options):
        clusters.append(Cluster(tmp_path / "dask", *options))
        clusters[-1].start("scheduler", "worker")
        return clusters[-1]

    yield cluster
    for one in clusters:
        one.end()


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


class TestCluster:
    pytestmark = distributed

    def test_workers_killed_cost_nothing_but_work(
        self, cluster, command, longer, unbroken, tmp_path
    ):
        rng = random.Random(2)
        cluster = cluster()
        for instant in range(INSTANTS):
            out = tmp_path / str(instant)
            process = command(longer, out, cluster)
            wait_for_work(out, lambda process=process: process.poll() is None)
            time.sleep(rng.uniform(0, 0.3))
            for worker in rng.sample(cluster.workers(), 1):
                worker.kill()
            assert ended(process) == (0, [])
            assert tree(out) == unbroken

    def test_scheduler_killed(self, cluster, command, longer, unbroken, tmp_path):
        rng = random.Random(3)
        cluster = cluster()
        unfinished = 0
        for instant in range(INSTANTS):
            out = tmp_path / str(instant)
            process = command(longer, out, cluster)
            wait_for_work(out, lambda process=process: process.poll() is None)
            time.sleep(rng.uniform(0, 0.3))
            cluster.kill("scheduler")
            status, lines = ended(process)
            gone = [f"error: {cluster.address}: the scheduler is gone; the same command continues"]
            assert (status, lines) in ((1, gone), (0, []))
            unfinished += status
            cluster.kill("worker")
            cluster.start("scheduler", "worker")
            assert ended(command(longer, out, cluster)) == (0, [])
            assert tree(out) == unbroken
        assert unfinished

    def test_client_killed(self, cluster, command, longer, unbroken, tmp_path):
        rng = random.Random(4)
        cluster = cluster()
        for instant in range(INSTANTS):
            out = tmp_path / str(instant)
            process = command(longer, out, cluster)
            wait_for_work(out, lambda process=process: process.poll() is None)
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
            process.wait()
            assert ended(command(longer, out, cluster)) == (0, [])
            assert tree(out) == unbroken

    def test_interrupted_leaves_no_job(self, cluster, command, longer, unbroken, tmp_path):
        cluster = cluster()
        process = command(longer, tmp_path / "out", cluster)
        wait_for_work(tmp_path / "out", lambda: process.poll() is None)
        process.send_signal(signal.SIGINT)
        assert ended(process) == (130, ["interrupted; the same command continues"])
        before = sorted((tmp_path / "out").iterdir())
        time.sleep(2)  # a job that was left would have written its shard by now
        assert sorted((tmp_path / "out").iterdir()) == before
        assert not [path for path in before if path.name.endswith(".part")]
        assert ended(command(longer, tmp_path / "out", cluster)) == (0, [])
        assert tree(tmp_path / "out") == unbroken

    def test_video_that_kills_every_worker_is_named(self, cluster, command, longer, tmp_path):
        (tmp_path / "preload.py").write_text(
            "import os, signal\n"
            "from stpyramid_jax.preparation.sources import videos\n"
            "def poisonous(path, size, frames=videos.frames):\n"
            "    if path.name.endswith('3.avi'):\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return frames(path, size)\n"
            "videos.frames = poisonous\n"
        )
        cluster = cluster(f"--preload={tmp_path / 'preload.py'}")
        status, lines = ended(command(longer, tmp_path / "out", cluster))
        sign = "a worker died (killed, or out of memory) at B/é 3.avi (shard 5)"
        assert (status, lines) == (1, [f"error: {sign}; the same command continues"])
        assert not list((tmp_path / "out").glob("*.part"))

    def test_worker_of_other_versions_is_refused(self, cluster, command, longer, tmp_path):
        (tmp_path / "preload.py").write_text("import cv2\ncv2.__version__ = '0.0'\n")
        cluster = cluster(f"--preload={tmp_path / 'preload.py'}")
        status, lines = ended(command(longer, tmp_path / "out", cluster))
        assert (status, len(lines)) == (1, 1)
        assert re.match(
            r"error: worker on \S+: prepared with libraries\.opencv = '\d.*', now '0\.0'", lines[0]
        )
