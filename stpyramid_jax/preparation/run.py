"""The preparation of a data set: list, decode, compute flow, write, on all cores."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from stpyramid_jax.preparation import output, shards
from stpyramid_jax.preparation.annotations import (
    Annotations,
    ListedVideo,
    read_folder,
    read_hmdb51,
    read_table,
    read_ucf101,
)
from stpyramid_jax.preparation.archives import unpacked
from stpyramid_jax.preparation.flow import METHODS
from stpyramid_jax.preparation.images import Images
from stpyramid_jax.preparation.jobs import Job, VideoError
from stpyramid_jax.preparation.plan import make_plan
from stpyramid_jax.preparation.videos import Videos
from stpyramid_jax.preparation.workers import work

CHOICES = {
    "dataset": ("ucf101", "hmdb51", "csv", "folder"),
    "flow": (*METHODS, "none"),
    "on_error": ("skip", "fail"),
    "missing": ("fail", "skip"),
}
"""Words that arguments of `prepare` take."""


def prepare(
    dataset: str,
    videos: Path | None,
    out: Path,
    *,
    images: Sequence[Path] = (),
    annotations: Path | None = None,
    classes: Sequence[str] = (),
    test_ratio: float | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    flow: str = "tvl1",
    warped: bool = False,
    size: tuple[int, int] = (340, 256),
    on_error: str = "skip",
    missing: str = "fail",
) -> dict:
    """Writes the shards of a data set to `out` and returns the content of its `dataset.json`.

    The same call again continues what was interrupted, and does nothing when all is done. The
    bytes do not depend on the number of workers nor on interruptions.

    Args:
      dataset: "ucf101", "hmdb51" or "csv" (which need `annotations`), or "folder".
      videos: folder of videos, or a rar archive of them; None where `images` are given.
      out: folder to write, empty or begun by the same call.
      images: folders of frames and flow as images, instead of `videos` (`images.Images`).
      annotations: folder of the official lists; the table of "csv"; the split of "folder".
      classes: prepare these only.
      test_ratio: share of each class's groups that is the test part of a "folder" without a split.
      workers: processes; by default a core each, or one where an accelerator computes the flow.
      scheduler: address of a Dask scheduler, whose workers do the work instead.
      flow: "tvl1", "opencv", "dis" or "none".
      warped: whether flow without the motion of the camera is written too.
      size: (width, height) that frames are resized to before the flow is computed.
      on_error: a video that cannot be prepared is left out ("skip") or ends the run ("fail").
      missing: whether videos that are listed but not on disk are refused ("fail") or left out.

    Raises:
      ValueError: refused before any work, a line for each offender.
      RuntimeError: a video cannot be prepared and `on_error` is "fail", or none can.
      OSError: `out` cannot be written.
    """
    _check_words(dataset=dataset, flow=flow, on_error=on_error, missing=missing)
    families = _families(flow, warped, images)
    source = _source(videos, images, flow, families, out)
    _check(out, workers, size)
    listed = _list(dataset, source, annotations, classes, test_ratio, missing)
    if listed.missing:
        print(f"{listed.missing} listed videos are not on disk: left out", flush=True)
    empty = _empty_parts(listed.splits, listed.videos)
    method = "images" if images and flow != "none" else flow
    plan = make_plan(listed, source, size, method, families)
    if workers is None:
        on_host = method != "tvl1" or jax.default_backend() == "cpu"
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
                out=out.absolute(),
                name=listed.name,
                shard=shard,
                shards=len(shares),
                source=source,
                videos=listed.videos[share],
                size=size,
                families=families,
                on_error=on_error,
            )
            for shard, share in enumerate(shares)
        ]
        work(jobs, workers, scheduler)
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


def _check(out: Path, workers: int | None, size: tuple[int, int]) -> None:
    if min(size) < 16:
        raise ValueError(f"--size={size[0]}x{size[1]}: needs at least 16 pixels each way")
    if workers is not None and workers < 1:
        raise ValueError(f"--workers={workers}: needs at least 1")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out={out}: not a folder")


def _families(flow: str, warped: bool, images: Sequence[Path]) -> tuple[str, ...]:
    if warped and (flow == "none" or images):
        other = "--images" if images else "--flow=none"
        raise ValueError(f"--warped: is made of flow that is computed; leave {other} away")
    return ("rgb", *["flow"] * (flow != "none"), *["warped"] * warped)


def _source(
    videos: Path | None,
    images: Sequence[Path],
    flow: str,
    families: Sequence[str],
    out: Path,
) -> Videos | Images:
    """Where records come from, checked; unpacks archives of videos."""
    if (videos is None) == (not images):
        raise ValueError("give one of --videos and --images")
    for flag, folder in (("videos", videos), *(("images", folder) for folder in images)):
        if folder is not None and out.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"--out={out}: inside --{flag}={folder}; choose a folder beside it")
    if videos is None:
        found = Images(tuple(path.absolute() for path in images), tuple(families[1:]))
        found.check()
        return found
    folder = unpacked(videos)
    if not folder.is_dir():
        raise ValueError(f"--videos={videos}: no such folder")
    return Videos(folder.absolute(), flow, tuple(families[1:]))


def _list(
    dataset: str,
    source: Videos | Images,
    annotations: Path | None,
    classes: Sequence[str],
    test_ratio: float | None,
    missing: str,
) -> Annotations:
    if test_ratio is not None and dataset != "folder":
        raise ValueError(f"--test_ratio: is for --dataset=folder, {dataset} has its own split")
    if dataset == "folder":
        if not isinstance(source, Videos):
            raise ValueError("--dataset=folder: needs --videos; list --images by --dataset=csv")
        return read_folder(source.folder, classes, test_ratio, annotations)
    if annotations is None:
        what = "the table" if dataset == "csv" else "the official lists' folder"
        raise ValueError(f"--dataset={dataset}: needs --annotations, {what}")
    read = {"ucf101": read_ucf101, "hmdb51": read_hmdb51, "csv": read_table}[dataset]
    root = source.folder if isinstance(source, Videos) else source.folders[0]
    return read(annotations, root, classes, missing, source.holds)


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


def _counts(done: dict) -> str:
    return (
        f"{done['videos']} videos, {done['rgb_frames']} frames, {done['flow_fields']} fields, "
        f"{done['errors']} errors"
    )
