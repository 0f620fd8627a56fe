"""One shard's work: its videos decoded, their flow computed, both written."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stpyramid_jax.preparation import shards
from stpyramid_jax.preparation.annotations import ListedVideo
from stpyramid_jax.preparation.decode import UnreadableVideo, frames
from stpyramid_jax.preparation.flow import flow_fields

JPEG_QUALITY = 95
MIN_FRAMES = 11  # one snippet of L = 10 fields


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
    common = {"video": video.name.encode(), "label": video.label}
    count = 0

    def grey_frames() -> Iterator[np.ndarray]:
        nonlocal count
        for image in frames(job.root / video.path, job.size):
            shard.check()
            shard.files["rgb"].append(
                image=_jpeg(cv2.cvtColor(image, cv2.COLOR_RGB2BGR)), frame=count, **common
            )
            count += 1
            yield cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)

    for number, field in enumerate(flow_fields(grey_frames(), job.flow)):
        image = _jpeg(field.reshape(-1, field.shape[-1]))
        shard.files["flow"].append(image=image, frame=number, **common)
    if count < MIN_FRAMES:
        raise UnreadableVideo(f"has {count} frames, fewer than the {MIN_FRAMES} of one snippet")


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
