"""Where jobs run: a process for each core of this machine, or the workers of a Dask cluster."""

import contextlib
import functools
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from dataclasses import dataclass

import cv2

from stpyramid_jax.preparation.jobs import Job, prepare_shard
from stpyramid_jax.preparation.plan import libraries
from stpyramid_jax.preparation.sources.flow import flow_parameters
from stpyramid_jax.preparation.writing import output, shards
from stpyramid_jax.progress import say

CONNECT = 30  # seconds


@dataclass(frozen=True)
class Pool:
    """Where jobs run: how one is run there, how many at once, and what their end looks like."""

    name: str
    executor: Executor
    task: Callable[[Job], int]
    slots: Callable[[], int]
    died: type[Exception]
    grace: float  # seconds after its cancelling in which a job may still begin


@contextlib.contextmanager
def machine(workers: int) -> Iterator[Pool]:
    if workers <= 1:
        executor = ThreadPoolExecutor(1)
    else:
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    with executor:
        yield Pool(
            "this machine", executor, prepare_shard, lambda: workers, BrokenExecutor, grace=0
        )


@contextlib.contextmanager
def cluster(address: str) -> Iterator[Pool]:
    if not re.fullmatch(r"(tcp|tls)://\S+:\d+", address):
        raise ValueError(f"--scheduler={address}: is not like tcp://host:8786")
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise RuntimeError(f"--scheduler={address}: needs `pip install distributed`") from None
    for name in ("distributed", "distributed.client", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is raised, too
    try:
        client = Client(address, timeout=CONNECT, set_as_default=False)
    except OSError as error:
        raise RuntimeError(f"--scheduler={address}: no scheduler answers ({error})") from error

    def slots() -> int:
        try:
            return sum(client.nthreads().values())
        except OSError as error:
            raise CancelledError from error

    with client:
        if not client.nthreads():
            say(f"waiting for workers of {address}")
        yield Pool(
            address,
            client.get_executor(pure=False),
            prepare_elsewhere,
            slots,
            KilledWorker,
            grace=0.5,
        )


def prepare_elsewhere(job: Job) -> int:
    """`prepare_shard` where the files are seen and the same bytes come out."""
    manifest = job.out / shards.manifest_file(job.shard)
    if manifest.is_file():  # of a worker that was only cut off
        return job.shard
    take_one_core()
    host = f"worker on {socket.gethostname()}"
    try:
        plan = json.loads((job.out / ".plan.json").read_text())["parameters"]
    except FileNotFoundError as error:
        raise RuntimeError(f"{host}: does not see {job.out}; all machines must share it") from error
    flow = flow_parameters(plan["flow"]["method"], job.families)
    if faults := output.differences({"flow": flow, "libraries": libraries()}, plan):
        raise RuntimeError("\n".join(f"{host}: {fault}" for fault in faults))
    for video in job.videos:
        if not job.source.holds(video.path):
            raise RuntimeError(f"{host}: does not see {video.path}; all machines must share videos")
    return prepare_shard(job)


def _start_worker() -> None:
    """One core a worker; ends with its parent; leaves Ctrl-C to it."""
    take_one_core()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _follow_parent(timeout=0)  # it may be gone before the first job
    threading.Thread(target=_follow_parent, args=(None,), daemon=True).start()


@functools.cache
def take_one_core() -> None:
    # Read when the backend starts, which is at the first call of tvl1.
    os.environ["NPROC"] = "1"
    flags = "--xla_cpu_multi_thread_eigen=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    cv2.setNumThreads(1)


def _follow_parent(timeout: float | None) -> None:
    parent = multiprocessing.parent_process()
    if parent and multiprocessing.connection.wait([parent.sentinel], timeout):
        os._exit(1)
