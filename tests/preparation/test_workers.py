"""Jobs wherever they run: what a machine must share, and what comes back from it."""

import contextlib
import json
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from operator import attrgetter

import cv2
import numpy as np
import pytest

from stpyramid_jax.preparation import pools, run, workers
from stpyramid_jax.preparation.choices import Choices
from stpyramid_jax.preparation.jobs import VideoError, prepare_shard
from stpyramid_jax.preparation.run import prepare
from stpyramid_jax.preparation.sources.decode import UnreadableVideo
from stpyramid_jax.preparation.writing import shards


@pytest.fixture
def begun(clips, tmp_path, monkeypatch):
    """The jobs of a folder that was begun, none of them done."""
    given = []

    def take(jobs, *_):
        given.extend(jobs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "work", take)
        with pytest.raises(KeyboardInterrupt):
            prepare(
                Choices("folder", clips, tmp_path / "out", flow="dis", size=(64, 48), workers=1)
            )
    # What a worker does to its process once and for all.
    monkeypatch.setattr(pools, "take_one_core", lambda: None)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield given
    cv2.setNumThreads(threads)


def tree(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_job_means_the_same_in_another_process(begun, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for job in begun:
        copy = pickle.loads(pickle.dumps(job))
        assert copy == job
        assert pools.prepare_elsewhere(copy) == job.shard
    assert (begun[0].out / shards.manifest_file(0)).is_file()


@pytest.mark.parametrize(
    "error",
    [VideoError("a", "A/é b.avi", "no\nreason"), UnreadableVideo("cut"), OSError(28, "Full", "/a")],
)
def test_errors_come_back_as_they_are(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.args, str(copy)) == (type(error), error.args, str(error))


@pytest.mark.parametrize("seed", range(4))
def test_two_writers_of_one_shard_do_no_harm(begun, tmp_path, seed):
    job = begun[0]
    prepare_shard(job)
    expected = tree(job.out)
    for path in job.out.glob("*-of-*"):
        path.unlink()
    (job.out / shards.manifest_file(0)).unlink()
    start = threading.Barrier(3)

    def write(delay):
        start.wait()
        threading.Event().wait(delay)
        return prepare_shard(job)

    delays = np.random.default_rng(seed).uniform(0, 0.03, 3)
    with ThreadPoolExecutor(3) as executor:
        assert list(executor.map(write, delays)) == [0, 0, 0]
    assert tree(job.out) == expected


def test_shard_that_is_there_is_not_written_again(begun):
    prepare_shard(begun[0])
    before = {path: path.stat().st_mtime_ns for path in begun[0].out.iterdir()}
    assert pools.prepare_elsewhere(begun[0]) == 0
    assert {path: path.stat().st_mtime_ns for path in begun[0].out.iterdir()} == before


def test_progress_counts_a_shard_once_whoever_writes_it(begun):
    job = begun[0]
    arguments = (job.out, job.name, job.shard, job.shards, job.families)
    with shards.ShardWriter(*arguments) as dead, shards.ShardWriter(*arguments) as other:
        for writer, count in ((dead, 1), (other, 2)):
            for _ in range(count):
                writer.leave_out(job.videos[0], "bad")
        assert workers.in_flight(job.out) == {0: (2, 0, 2)}


def test_folder_that_a_machine_does_not_see_is_refused(begun):
    (begun[0].out / ".plan.json").unlink()
    with pytest.raises(RuntimeError, match=r"does not see \S+/out; all machines must share it$"):
        pools.prepare_elsewhere(begun[0])


def test_videos_that_a_machine_does_not_see_are_refused(begun, clips, monkeypatch):
    monkeypatch.setattr(type(begun[0].source), "holds", lambda *_: False)
    with pytest.raises(RuntimeError, match=r"does not see Jump/v_Jump_g01_c01\.avi; "):
        pools.prepare_elsewhere(begun[0])
    assert not list(begun[0].out.glob("*-of-*"))  # and not left out as unreadable


def test_machine_of_other_bytes_is_refused_by_every_key(begun, monkeypatch):
    plan = json.loads((begun[0].out / ".plan.json").read_text())
    monkeypatch.setattr(cv2, "__version__", "0.0")
    monkeypatch.setattr(np, "__version__", "0.1")
    with pytest.raises(RuntimeError) as caught:
        pools.prepare_elsewhere(begun[0])
    libraries = plan["parameters"]["libraries"]
    assert [line.split(": ", 1)[1] for line in str(caught.value).splitlines()] == [
        f"prepared with libraries.numpy = {libraries['numpy']!r}, now '0.1'",
        f"prepared with libraries.opencv = {libraries['opencv']!r}, now '0.0'",
    ]
    assert not list(begun[0].out.glob("*-of-*"))


def test_shard_that_was_written_elsewhere_is_named(begun, monkeypatch):
    monkeypatch.setattr(workers, "LAG", 0)
    there = workers.machine

    @contextlib.contextmanager
    def elsewhere(count):
        with there(count) as pool:
            yield replace(pool, task=attrgetter("shard"))

    monkeypatch.setattr(workers, "machine", elsewhere)
    with pytest.raises(RuntimeError, match=r"^shard 0 was written, but not here: machines must"):
        workers.work(begun, 1)


def test_shard_that_shows_late_is_waited_for(begun, monkeypatch):
    seen = iter([FileNotFoundError, (1, 16, 0)])

    def tally(_):
        found = next(seen)
        if isinstance(found, tuple):
            return found
        raise found

    monkeypatch.setattr(shards, "tally", tally)
    workers.work(begun[:1], 1)
    assert next(seen, None) is None


@pytest.mark.parametrize("address", ["host:8786", "tcp://host", "tcp://:8786x", "tcp://a b:1"])
def test_address_that_is_none_is_refused(begun, address):
    with pytest.raises(ValueError, match=r"^--scheduler=.*: is not like tcp://host:8786$"):
        workers.work(begun, 1, address)


def test_without_distributed_one_line_says_what_to_install(begun, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RuntimeError, match=r"--scheduler=tcp://a:1: needs `pip install distrib"):
        workers.work(begun, 1, "tcp://a:1")


@pytest.mark.slow
def test_scheduler_that_does_not_answer_is_one_line(begun, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(pools, "CONNECT", 1)
    with pytest.raises(RuntimeError, match=r"^--scheduler=tcp://127\.0\.0\.1:9: no scheduler ans"):
        workers.work(begun, 1, "tcp://127.0.0.1:9")


def test_job_called_off_by_another_preparation_is_one_line(begun, monkeypatch):
    written = shards.ShardWriter.check

    def check(writer):
        shards.remove_parts(begun[0].out)
        written(writer)

    monkeypatch.setattr(shards.ShardWriter, "check", check)
    sign = r"/out: another preparation is writing here; the same command continues$"
    with pytest.raises(RuntimeError, match=sign):
        workers.work(begun, 1)
    assert not list(begun[0].out.glob("*.part"))
