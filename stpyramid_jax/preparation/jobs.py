"""One shard's work: the records of its videos, from wherever they come, written."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2

from stpyramid_jax.preparation.annotations import ListedVideo
from stpyramid_jax.preparation.sources.decode import UnreadableVideo
from stpyramid_jax.preparation.writing import shards

MIN_FRAMES = 11  # one snippet of L = 10 fields


class Source(Protocol):
    """Where the records of listed videos come from: `videos.Videos` or `images.Images`."""

    def holds(self, path: str) -> bool: ...

    def marks(self, paths: Iterable[str]) -> Sequence[int | str]: ...

    def records(self, path: str, size: tuple[int, int]) -> Iterator[tuple[str, bytes]]: ...


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
    source: Source
    videos: tuple[ListedVideo, ...]
    size: tuple[int, int]
    families: tuple[str, ...]
    on_error: str


def prepare_shard(job: Job) -> int:
    """Writes one shard and returns its number."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # DIS gives other bytes on other numbers of threads
    try:
        with shards.ShardWriter(job.out, job.name, job.shard, job.shards, job.families) as shard:
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
    counts = dict.fromkeys(job.families, 0)
    for family, image in job.source.records(video.path, job.size):
        shard.check()
        shard.files[family].append(
            image=image, video=video.name.encode(), frame=counts[family], label=video.label
        )
        counts[family] += 1
    if counts["rgb"] < MIN_FRAMES:
        raise UnreadableVideo(
            f"has {counts['rgb']} frames, fewer than the {MIN_FRAMES} of one snippet"
        )
