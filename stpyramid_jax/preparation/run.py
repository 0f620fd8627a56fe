"""The preparation of a data set: list, decode, compute flow, write, on all cores."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from stpyramid_jax.preparation.annotations import (
    Annotations,
    ListedVideo,
    read_folder,
    read_hmdb51,
    read_table,
    read_ucf101,
)
from stpyramid_jax.preparation.choices import Choices
from stpyramid_jax.preparation.jobs import Job, VideoError
from stpyramid_jax.preparation.plan import make_plan
from stpyramid_jax.preparation.sources.archives import unpacked
from stpyramid_jax.preparation.sources.images import Images
from stpyramid_jax.preparation.sources.videos import Videos
from stpyramid_jax.preparation.workers import work
from stpyramid_jax.preparation.writing import output, shards


def prepare(choices: Choices) -> dict[str, Any]:
    """Writes the shards of a data set and returns the content of its `dataset.json`.

    The same call again continues what was interrupted, and does nothing when all is done. The
    bytes do not depend on the number of workers nor on interruptions.

    Raises:
      ValueError: refused before any work, a line for each offender.
      RuntimeError: a video cannot be prepared and `on_error` is "fail", or none can; or workers
        died, or are not like this machine.
      OSError: `out` cannot be written.
    """
    source = _source(choices)
    listed = _list(choices, source)
    if listed.missing:
        print(f"{listed.missing} listed videos are not on disk: left out", flush=True)
    empty = _empty_parts(listed.splits, listed.videos)
    plan = make_plan(listed, source, choices)

    out = choices.out
    with output.locked(out):
        if output.begin(out, plan):
            errors = output.read_errors(out)
            if errors and choices.on_error == "fail":
                raise VideoError(*errors[0])
            done = json.loads((out / "dataset.json").read_text())
            print(f"{out} is complete already: {_counts(done)}")
            return done
        _warn(empty)
        work(_jobs(choices, source, listed), choices.processes, choices.scheduler)
        done = output.finalise(out, plan, listed.videos)
        failed = {name for name, _, _ in output.read_errors(out)}
    left = _empty_parts(listed.splits, [v for v in listed.videos if v.name not in failed])
    _warn([part for part in left if part not in empty])
    print(f"{out}: {_counts(done)}")
    return done


def _source(choices: Choices) -> Videos | Images:
    """Where records come from, checked; unpacks archives of videos."""
    motion = choices.families[1:]
    if choices.videos is None:
        found = Images(tuple(path.absolute() for path in choices.images), motion)
        found.check()
        return found
    folder = unpacked(choices.videos)
    if not folder.is_dir():
        raise ValueError(f"--videos={choices.videos}: no such folder")
    return Videos(folder.absolute(), choices.flow, motion)


def _list(choices: Choices, source: Videos | Images) -> Annotations:
    folder = source.folder if isinstance(source, Videos) else source.folders[0]
    if choices.dataset == "folder":
        return read_folder(folder, choices.classes, choices.test_ratio, choices.annotations)
    assert choices.annotations is not None  # as `Choices` has checked
    read = {"ucf101": read_ucf101, "hmdb51": read_hmdb51, "csv": read_table}[choices.dataset]
    return read(choices.annotations, folder, choices.classes, choices.missing, source.holds)


def _jobs(choices: Choices, source: Videos | Images, listed: Annotations) -> list[Job]:
    shares = shards.shard_shares(len(listed.videos))
    return [
        Job(
            out=choices.out.absolute(),
            name=listed.name,
            shard=shard,
            shards=len(shares),
            source=source,
            videos=listed.videos[share],
            size=choices.size,
            families=choices.families,
            on_error=choices.on_error,
        )
        for shard, share in enumerate(shares)
    ]


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


def _counts(done: dict) -> str:
    return (
        f"{done['videos']} videos, {done['rgb_frames']} frames, {done['flow_fields']} fields, "
        f"{done['errors']} errors"
    )
