"""Jobs, wherever they run: given out, counted, called off; one that is lost costs its shard."""

import contextlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future, wait
from pathlib import Path

import numpy as np

from stpyramid_jax.preparation.jobs import Job, VideoError
from stpyramid_jax.preparation.pools import Pool, cluster, machine
from stpyramid_jax.preparation.writing import output, shards
from stpyramid_jax.progress import progress_bar

LAG = 120  # seconds


def work(jobs: Sequence[Job], workers: int, scheduler: str | None = None) -> None:
    """Runs the jobs that no earlier run has finished, and shows how far they are.

    Args:
      jobs: one for each shard.
      workers: processes on this machine.
      scheduler: address of a Dask scheduler, whose workers then run the jobs.

    Raises:
      VideoError: a video cannot be prepared and its job says that this is fatal.
      RuntimeError: workers died, or are not like this machine; work that is done is kept.
      ValueError: `scheduler` is no address.
    """
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

    place = cluster(scheduler) if scheduler and left else machine(min(workers, len(left)))
    with place as pool, progress_bar(total, "videos") as show:
        pending: dict[Future, Job] = {}
        try:
            while left or pending:
                # One job for each worker: the scheduler counts a death against all it has given.
                for _ in range(min(len(left), pool.slots() - len(pending))):
                    job = left.pop(0)
                    pending[pool.executor.submit(pool.task, job)] = job
                for future in wait(pending, timeout=1, return_when="FIRST_COMPLETED").done:
                    shard = future.result()
                    del pending[future]
                    counts[shard] = _tally(out, shard)
                if left and not pool.slots():  # of a cluster that has no worker yet
                    time.sleep(1)
                videos, count, errors = np.sum(
                    [(0, 0, 0), *(in_flight(out) | counts).values()], axis=0
                ).tolist()
                show(videos, f"{count} frames, {errors} errors")
        except BaseException as error:
            told = _explained(error, pending, pool)
            _call_off(pending, out, pool.grace)
            if isinstance(error, VideoError):
                output.write_errors(out, [error.args])
            if told is error:
                raise
            raise told from error


def _tally(out: Path, shard: int) -> tuple[int, int, int]:
    """Of a finished shard, once this machine sees it: network folders lag behind."""
    end = time.monotonic() + LAG
    while True:
        with contextlib.suppress(FileNotFoundError):
            return shards.tally(out / shards.manifest_file(shard))
        if time.monotonic() > end:
            raise RuntimeError(
                f"shard {shard} was written, but not here: machines must share {out}"
            )
        os.listdir(out)  # has it asked for afresh
        time.sleep(0.5)


def in_flight(out: Path) -> dict[int, tuple[int, int, int]]:
    """The tally of each shard that is being written, by whoever is furthest."""
    tallies = {}
    for part in shards.parts_in_flight(out):
        shard = int(part.name.split(".")[1].removeprefix("shard-"))
        with contextlib.suppress(FileNotFoundError):  # finished just now
            tallies[shard] = max(tallies.get(shard, (0, 0, 0)), shards.tally(part))
    return tallies


def _explained(error: BaseException, pending: Mapping[Future, Job], pool: Pool) -> BaseException:
    """The error, or a line for people where a worker, the scheduler or the folder was lost."""
    over = [future for future in pending if future.done() and not future.cancelled()]
    jobs = [pending[future] for future in over if future.exception() is error]
    if isinstance(error, pool.died):
        # All local jobs end with one worker, Dask's by themselves.
        lost = [*pending.values()] if isinstance(error, BrokenExecutor) else jobs
        reason = f"a worker died (killed, or out of memory){_in_work(lost)}"
    elif not isinstance(error, CancelledError):
        return error
    elif jobs:
        reason = f"{jobs[0].out}: another preparation is writing here"
    else:
        reason = f"{pool.name}: the scheduler is gone"
    return RuntimeError(f"{reason}; the same command continues")


def _in_work(jobs: Sequence[Job]) -> str:
    """Says at which videos jobs are, or were when their worker died."""
    tallies = in_flight(jobs[0].out) if jobs else {}
    at = [(job, tallies[job.shard][0]) for job in jobs if job.shard in tallies]
    names = [
        f"{job.videos[min(done, len(job.videos) - 1)].path} (shard {job.shard})" for job, done in at
    ]
    return f" at {' or '.join(names)}" if names else ""


def _call_off(pending: Iterable[Future], out: Path, grace: float) -> None:
    """Cancels the jobs; those that have begun, or are about to, stop at their next frame."""
    quiet = time.monotonic()
    while True:
        stopped = all([future.cancel() or future.done() for future in pending])
        if shards.parts_in_flight(out):
            quiet = time.monotonic()
        shards.remove_parts(out)
        if stopped and time.monotonic() - quiet >= grace:
            return
        time.sleep(0.05)
