"""Video files to predict: which, how fast they run, and one of them as a source of views."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from stpyramid_jax.input.config import InputConfig
from stpyramid_jax.input.sampling import numbers, test_samples
from stpyramid_jax.input.tfrecord import Video
from stpyramid_jax.preparation.annotations.listing import UNWRITABLE, VIDEO_SUFFIXES
from stpyramid_jax.preparation.sources.decode import UnreadableVideo, frames, opened
from stpyramid_jax.preparation.sources.flow import flow_fields
from stpyramid_jax.progress import progress_bar, say

_SAID = 10_000  # frames that are counted from one line to the next


def find_videos(videos: str) -> list[Path]:
    """Files that a name stands for: its own, those of video below a folder, or of a pattern.

    Raises:
      ValueError: there is none.
    """
    if os.path.isdir(videos):
        paths = [
            path
            for path in Path(videos).rglob("*")
            if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")
        ]
    elif os.path.exists(videos):  # whatever signs of a pattern its name holds
        paths = [Path(videos)]
    else:
        paths = [Path(name) for name in glob.glob(videos, recursive=True)]
    paths = sorted(path for path in paths if not path.is_dir())
    if not paths:
        raise ValueError(f"--video={shown(videos)}: no such file, and no folder or pattern of any")
    return paths


def shown(name: str | Path) -> str:
    """A name as one line of text, whatever it holds."""
    return UNWRITABLE.sub(lambda match: ascii(match[0])[1:-1], str(name))


def frame_rate(path: Path) -> Fraction:
    """Frames a second of a video, on average, as its container says; 25 where it does not."""
    with opened(path) as container:
        stream = container.streams.video[0]
        return stream.average_rate or stream.guessed_rate or Fraction(25)


class Clip:
    """A video file as a source of one clip, holding only what evaluation will ask of it.

    Raises:
      UnreadableVideo: it does not decode, or has fewer frames than a snippet needs.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        method: str,
        config: InputConfig,
        positions: int,
    ):
        count = _count(path, least=config.snippet_length + 1)
        pictures, wanted = _asked_for(count, config, positions)
        self.directory, self.families = path.parent, config.families
        self.videos = (Video(path.name, -1, "", count, count - 1, 0, {}),)
        self._frames: dict[int, np.ndarray] = {}
        self._fields: dict[int, np.ndarray] = {}
        run: list[int] = []  # frames in a row whose flow is wanted
        images: list[np.ndarray] = []
        with progress_bar(count, f"frames of {shown(path.name)} read") as show:
            for number, image in enumerate(told(frames(path, size), show)):
                if number in pictures:
                    self._frames[number] = image
                if number in wanted or number - 1 in wanted:
                    run.append(number)
                    images.append(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
                if run and number not in wanted:
                    fields = flow_fields(images, method, (config.motion,))
                    self._fields |= zip(run, (field for (field,) in fields), strict=False)
                    run, images = [], []

    def rgb(self, video: int, frame: int) -> np.ndarray:
        return self._frames[frame]

    def flow(self, video: int, start: int, length: int, family: str = "flow") -> np.ndarray:
        return np.stack([self._fields[number] for number in range(start, start + length)])


def told(images: Iterable[np.ndarray], show: Callable[..., None]) -> Iterator[np.ndarray]:
    """The frames of a video, and how many of them were taken."""
    for number, image in enumerate(images, 1):
        yield image
        show(number)


def _count(path: Path, least: int) -> int:
    """Number of frames that decode; what a file declares may be wrong."""
    count = 0
    for count, _ in enumerate(frames(path), 1):
        if count % _SAID == 0:
            say(f"{shown(path.name)}: {count} frames so far")
    if count < least:
        raise UnreadableVideo(f"has {count} frames, fewer than the {least} of one snippet")
    return count


def _asked_for(count: int, config: InputConfig, positions: int) -> tuple[set[int], set[int]]:
    """Numbers of the frames and of the fields that views at these positions are made of."""
    found: dict[str, set[int]] = {"rgb": set(), "flow": set()}
    for sample in test_samples(
        count - 1, positions, config.snippets, config.snippet_length, config.test_tau
    ):
        chosen = numbers(sample, count - 1, config.snippet_length, config.inputs)
        for name, records in chosen.items():
            found["flow" if name == "flow" else "rgb"].update(records.ravel().tolist())
    return found["rgb"], found["flow"]
