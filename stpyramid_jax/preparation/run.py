"""The preparation of a data set: list, decode, compute flow, write, on all cores."""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import av
import cv2
import jax
import numpy as np

from stpyramid_jax.preparation import output, shards
from stpyramid_jax.preparation.annotations import Annotations, ListedVideo, read_folder, read_ucf101
from stpyramid_jax.preparation.decode import RESIZE
from stpyramid_jax.preparation.flow import METHODS, flow_parameters
from stpyramid_jax.preparation.jobs import JPEG_QUALITY, MIN_FRAMES, Job, VideoError
from stpyramid_jax.preparation.workers import work
from stpyramid_jax.records import FORMAT

CHOICES = {
    "dataset": ("ucf101", "folder"),
    "flow": METHODS,
    "on_error": ("skip", "fail"),
    "missing": ("fail", "skip"),
}
"""Words that arguments of `prepare` take."""


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

    with output.locked(out):
        if output.begin(out, plan):
            errors = output.read_errors(out)
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
                families=tuple(plan["families"]),
                on_error=on_error,
            )
            for shard, share in enumerate(shares)
        ]
        work(jobs, workers)
        done = output.finalise(out, plan, listed.videos)
        failed = {name for name, _, _ in output.read_errors(out)}
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
        "families": ["rgb", "flow"],
        "parameters": parameters,
    }


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _counts(done: dict) -> str:
    return (
        f"{done['videos']} videos, {done['rgb_frames']} frames, {done['flow_fields']} fields, "
        f"{done['errors']} errors"
    )
