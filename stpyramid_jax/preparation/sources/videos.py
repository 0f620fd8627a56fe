"""Videos as a source of records: frames decoded, flow computed between them, both as JPEG."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stpyramid_jax.preparation.sources.decode import frames
from stpyramid_jax.preparation.sources.flow import flow_fields

JPEG_QUALITY = 95


@dataclass(frozen=True)
class Videos:
    """Video files below a folder, and the method and the families of the flow (`flow_fields`)."""

    folder: Path
    flow: str
    motion: tuple[str, ...]

    def holds(self, path: str) -> bool:
        """Whether the video `path` is there."""
        return os.path.isfile(self.folder / path)  # False for a name that is too long

    def marks(self, paths: Iterable[str]) -> list[int]:
        """Bytes of each video, by which one that was replaced is noticed; -1 of a broken link."""
        return [_size(self.folder / path) for path in paths]

    def records(self, path: str, size: tuple[int, int]) -> Iterator[tuple[str, bytes]]:
        """Family and JPEG of each record of a video, those of a family in order.

        Fields follow some frames after those that they are between.

        Raises:
          UnreadableVideo: the file cannot be decoded to its end.
        """
        images = frames(self.folder / path, size)
        if not self.motion:
            yield from (("rgb", _colour_jpeg(image)) for image in images)
            return
        taken = []

        def grey_frames() -> Iterator[np.ndarray]:
            for image in images:
                taken.append(("rgb", _colour_jpeg(image)))
                yield cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)

        for fields in flow_fields(grey_frames(), self.flow, self.motion):
            yield from taken
            taken.clear()
            for family, field in zip(self.motion, fields, strict=True):
                yield family, jpeg(field.reshape(-1, field.shape[-1]))
        yield from taken


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # decoding will say why
        return -1


def jpeg(image: np.ndarray) -> bytes:
    """A grey image, or one in the order blue, green, red, as JPEG."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _colour_jpeg(image: np.ndarray) -> bytes:
    return jpeg(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
