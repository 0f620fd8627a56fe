"""Killed at each instant at which a file appears or goes, and at random ones: the same bytes."""

import multiprocessing
import random
import re
import threading
import time

import pytest

from tests.preparation.conftest import quick, tree, wait_for_work

INSTANTS = 1  # for each kind of kill; some twenty were tried by hand


# A process that prepares and kills itself before the n-th of the moments at which files appear
# under their names or go; with n too large it ends by itself with status 0.
KILLED = """
import os, pathlib, signal
from stpyramid_jax.preparation.choices import Choices
from stpyramid_jax.preparation.run import prepare
left = {moment}
def dying(call):
    def wrapped(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return wrapped
os.replace, pathlib.Path.unlink = dying(os.replace), dying(pathlib.Path.unlink)
videos, out = pathlib.Path({videos!r}), pathlib.Path({out!r})
prepare(Choices("folder", videos, out, flow="dis", size=(64, 48), workers=1))
"""


@pytest.fixture(scope="module")
def start():
    """Starts `exec(code)` in a process of its own, cheaply: the imports are done once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stpyramid_jax.preparation.run"])

    def start(**settings):
        process = context.Process(target=exec, args=(KILLED.format(**settings), {}))
        process.start()
        return process

    return start


@pytest.mark.slow
def test_killed_at_any_commit_and_run_again_is_unbroken(clips, unbroken, tmp_path, start):
    expected = tree(unbroken)
    for moment in range(100):
        out = tmp_path / str(moment)
        process = start(moment=moment, videos=str(clips), out=str(out))
        process.join()
        if process.exitcode == 0:
            break
        quick(clips, out)
        assert tree(out) == expected, moment
    assert 10 < moment < 40


def test_killed_at_random_instants_and_run_again_is_unbroken(clips, unbroken, tmp_path, start):
    rng = random.Random(0)
    interrupted = 0
    for trial in range(8):
        out = tmp_path / str(trial)
        for _ in range(2):
            process = start(moment=1000, videos=str(clips), out=str(out))
            while process.is_alive() and not (out / ".plan.json").exists():
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
            process.join()
            interrupted += (out / ".plan.json").exists()
        quick(clips, out)
        assert tree(out) == tree(unbroken)
    assert interrupted > 0  # or every trial ended by itself


def test_parent_of_workers_killed(longer, longer_files, tmp_path):
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
        assert tree(out) == longer_files
    assert unfinished


def test_worker_killed(longer, longer_files, tmp_path):
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
        assert tree(out) == longer_files
    assert any(".avi" in line for line in lines)
    for line in lines:
        video = r"[AB]/é \d\.avi \(shard \d\)"
        at = rf"( at {video}( or {video})?)?"
        sign = rf"a worker died \(killed, or out of memory\){at}; the same command continues"
        assert re.fullmatch(sign, line)
