"""Jobs on all cores: a process each, which ends with its parent and costs only its own shard."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait

import numpy as np

from stpyramid_jax.preparation import output, shards
from stpyramid_jax.preparation.jobs import Job, VideoError, prepare_shard
from stpyramid_jax.progress import progress_bar


def work(jobs: Sequence[Job], workers: int) -> None:
    """Runs the jobs that no earlier run has finished, and shows how far they are."""
    total = sum(len(job.videos) for job in jobs)
    out = jobs[0].out
    counts = {}
    left = []
    for job in jobs:
        manifest = out / shards.manifest_file(job.shard)
        if manifest.is_file():
            counts[job.shard] = shards.tally(manifest)
            if job.on_error == "fail" and (errors := shards.left_out(manifest)):
                raise VideoError(*errors[0])
        else:
            left.append(job)

    with _executor(min(workers, len(left))) as executor, progress_bar(total, "videos") as show:
        pending = {executor.submit(prepare_shard, job) for job in left}
        try:
            while pending:
                finished, pending = wait(pending, timeout=1, return_when="FIRST_COMPLETED")
                for future in finished:
                    shard = future.result()
                    counts[shard] = shards.tally(out / shards.manifest_file(shard))
                flying = []
                for part in shards.parts_in_flight(out):
                    with contextlib.suppress(FileNotFoundError):  # finished just now
                        flying.append(shards.tally(part))
                videos, count, errors = np.sum(
                    [(0, 0, 0), *counts.values(), *flying], axis=0
                ).tolist()
                show(videos, f"{count} frames, {errors} errors")
        except BaseException as error:
            # Some jobs have begun or are about to: call them off until all have stopped.
            while not all(future.cancel() or future.done() for future in pending):
                shards.remove_parts(out)
                time.sleep(0.05)
            if isinstance(error, VideoError):
                output.write_errors(out, [error.args])
            raise


def _executor(workers: int) -> Executor:
    if workers <= 1:
        return ThreadPoolExecutor(1)
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


def _start_worker() -> None:
    """One core a worker; ends with its parent; leaves Ctrl-C to it."""
    # Read when the backend starts, which is at the first call of tvl1.
    os.environ["NPROC"] = "1"
    flags = "--xla_cpu_multi_thread_eigen=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _follow_parent(timeout=0)  # it may be gone before the first job
    threading.Thread(target=_follow_parent, args=(None,), daemon=True).start()


def _follow_parent(timeout: float | None) -> None:
    parent = multiprocessing.parent_process()
    if parent and multiprocessing.connection.wait([parent.sentinel], timeout):
        os._exit(1)
