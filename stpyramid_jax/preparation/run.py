"""The preparation of a data set: list, decode, compute flow, write, on all cores."""

import contextlib
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import astuple, dataclass
from pathlib import Path

import av
import cv2
import jax
import numpy as np

from stpyramid_jax.preparation import shards
from stpyramid_jax.preparation.annotations import Annotations, ListedVideo, read_folder, read_ucf101
from stpyramid_jax.preparation.decode import RESIZE, UnreadableVideo, frames
from stpyramid_jax.preparation.flow import METHODS, flow_fields, flow_parameters
from stpyramid_jax.progress import progress_bar
from stpyramid_jax.records import FORMAT

JPEG_QUALITY = 95
MIN_FRAMES = 11  # one snippet of L = 10 fields
CHOICES = {
    "dataset": ("ucf101", "folder"),
    "flow": METHODS,
    "on_error": ("skip", "fail"),
    "missing": ("fail", "skip"),
}
"""Words that arguments of `prepare` take."""


class VideoError(RuntimeError):
    """Ends the run for a video that cannot be prepared: its name, path and the reason."""

    def __str__(self):
        _, path, reason = self.args
        return f"{path}: {reason}"


@dataclass(frozen=True)
class Job:
    """One shard to write; pickled to a worker."""

    out: Path
    name: str
    shard: int
    shards: int
    root: Path
    videos: tuple[ListedVideo, ...]
    size: tuple[int, int]
    flow: str
    on_error: str


def prepare(
    dataset: str,
    videos: Path,
    out: Path,
    *,
    annotations: Path | None = None,
    classes: Sequence[str] = (),
    workers: int | None = None,
    flow: str = "tvl1",
    size: tuple[int, int] = (340, 256),
    on_error: str = "skip",
    missing: str = "fail",
) -> dict:
    """Writes the shards of a data set to `out` and returns the content of its `dataset.json`.

    The same call again continues what was interrupted, and does nothing when all is done. The
    bytes do not depend on the number of workers nor on interruptions.

    Args:
      dataset: "ucf101" (needs `annotations`) or "folder".
      videos: folder of videos.
      out: folder to write, empty or begun by the same call.
      annotations: folder of the official lists of UCF101.
      classes: prepare these only.
      workers: processes; by default a core each, or one where an accelerator computes the flow.
      flow: "tvl1", "opencv" or "dis".
      size: (width, height) that frames are resized to before the flow is computed.
      on_error: a video that cannot be prepared is left out ("skip") or ends the run ("fail").
      missing: whether videos that are listed but not on disk are refused ("fail") or left out.

    Raises:
      ValueError: refused before any work, a line for each offender.
      RuntimeError: a video cannot be prepared and `on_error` is "fail", or none can.
      OSError: `out` cannot be written.
    """
    _check_words(dataset=dataset, flow=flow, on_error=on_error, missing=missing)
    _check(videos, out, workers, size)
    listed = _list(dataset, videos, annotations, classes, missing)
    if listed.missing:
        print(f"{listed.missing} listed videos are not on disk: left out", flush=True)
    empty = _empty_parts(listed.splits, listed.videos)
    plan = _plan(listed, videos, size, flow)
    if workers is None:
        on_host = flow != "tvl1" or jax.default_backend() == "cpu"
        workers = _cores() if on_host else 1

    with shards.locked(out):
        if shards.begin(out, plan):
            errors = shards.read_errors(out)
            if errors and on_error == "fail":
                raise VideoError(*errors[0])
            done = json.loads((out / "dataset.json").read_text())
            print(f"{out} is complete already: {_counts(done)}")
            return done
        _warn(empty)
        shares = shards.shard_shares(len(listed.videos))
        jobs = [
            Job(
                out=out,
                name=listed.name,
                shard=shard,
                shards=len(shares),
                root=videos,
                videos=listed.videos[share],
                size=size,
                flow=flow,
                on_error=on_error,
            )
            for shard, share in enumerate(shares)
        ]
        _work(jobs, workers)
        done = shards.finalise(out, plan, listed.videos)
        failed = {name for name, _, _ in shards.read_errors(out)}
    left = _empty_parts(listed.splits, [v for v in listed.videos if v.name not in failed])
    _warn([part for part in left if part not in empty])
    print(f"{out}: {_counts(done)}")
    return done


def _check_words(**words: str) -> None:
    for flag, word in words.items():
        if word not in CHOICES[flag]:
            raise ValueError(f"--{flag}={word}: choose one of {', '.join(CHOICES[flag])}")


def _check(videos: Path, out: Path, workers: int | None, size: tuple[int, int]) -> None:
    if min(size) < 16:
        raise ValueError(f"--size={size[0]}x{size[1]}: needs at least 16 pixels each way")
    if workers is not None and workers < 1:
        raise ValueError(f"--workers={workers}: needs at least 1")
    if not videos.is_dir():
        raise ValueError(f"--videos={videos}: no such folder")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out={out}: not a folder")
    if out.resolve().is_relative_to(videos.resolve()):
        raise ValueError(f"--out={out}: inside --videos={videos}; choose a folder beside it")


def _list(
    dataset: str, videos: Path, annotations: Path | None, classes: Sequence[str], missing: str
) -> Annotations:
    if dataset == "ucf101":
        if annotations is None:
            raise ValueError("--dataset=ucf101: needs --annotations, the official lists' folder")
        return read_ucf101(annotations, videos, classes, missing)
    if annotations is not None:
        raise ValueError("--dataset=folder: takes no --annotations, folders name the classes")
    return read_folder(videos, classes)


def _empty_parts(splits: Sequence[str], videos: Sequence[ListedVideo]) -> list[tuple[str, str]]:
    return [
        (split, part)
        for column, split in enumerate(splits)
        for part in ("train", "test")
        if not any(video.splits[column] == part for video in videos)
    ]


def _warn(empty: Sequence[tuple[str, str]]) -> None:
    uses = {"train": "trained", "test": "evaluated"}
    for split, part in empty:
        text = f"warning: {split} has no {part} videos, so nothing can be {uses[part]} on it"
        print(text, file=sys.stderr, flush=True)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # fewer than the machine's under a job scheduler
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _plan(listed: Annotations, root: Path, size: tuple[int, int], flow: str) -> dict:
    # With sizes, so that a video that was replaced since is noticed.
    rows = json.dumps([(*astuple(video), _bytes(root / video.path)) for video in listed.videos])
    parameters = {
        "size": list(size),
        "resize": RESIZE,
        "jpeg_quality": JPEG_QUALITY,
        "min_frames": MIN_FRAMES,
        "flow": flow_parameters(flow),
        "listed_videos": len(listed.videos),
        "video_list_sha256": hashlib.sha256(rows.encode()).hexdigest(),
        "libraries": {"av": av.__version__, "opencv": cv2.__version__, "numpy": np.__version__},
    }
    return {
        "format": FORMAT,
        "name": listed.name,
        "classes": list(listed.classes),
        "splits": list(listed.splits),
        "parameters": parameters,
    }


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _work(jobs: Sequence[Job], workers: int) -> None:
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
                shards.write_errors(out, [error.args])
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


def prepare_shard(job: Job) -> int:
    """Writes one shard and returns its number."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # DIS gives other bytes on other numbers of threads
    try:
        with shards.ShardWriter(job.out, job.name, job.shard, job.shards) as shard:
            for video in job.videos:
                try:
                    _write_video(job, video, shard)
                except UnreadableVideo as error:
                    if job.on_error == "fail":
                        raise VideoError(video.name, video.path, str(error)) from error
                    shard.leave_out(video, str(error))
                else:
                    shard.keep(video)
    finally:
        cv2.setNumThreads(threads)
    return job.shard


def _write_video(job: Job, video: ListedVideo, shard: shards.ShardWriter) -> None:
    common = {"video": video.name.encode(), "label": video.label}
    count = 0

    def grey_frames() -> Iterator[np.ndarray]:
        nonlocal count
        for image in frames(job.root / video.path, job.size):
            shard.check()
            shard.rgb.append(
                image=_jpeg(cv2.cvtColor(image, cv2.COLOR_RGB2BGR)), frame=count, **common
            )
            count += 1
            yield cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)

    for number, field in enumerate(flow_fields(grey_frames(), job.flow)):
        image = _jpeg(field.reshape(-1, field.shape[-1]))
        shard.flow.append(image=image, frame=number, **common)
    if count < MIN_FRAMES:
        raise UnreadableVideo(f"has {count} frames, fewer than the {MIN_FRAMES} of one snippet")


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _counts(done: dict) -> str:
    return (
        f"{done['videos']} videos, {done['rgb_frames']} frames, {done['flow_fields']} fields, "
        f"{done['errors']} errors"
    )
