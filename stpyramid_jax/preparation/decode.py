"""Frames of a video file."""

from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

RESIZE = "after decoding, cv2.INTER_AREA where no side grows, else cv2.INTER_LINEAR"


class UnreadableVideo(ValueError):
    """A video that cannot be prepared, with the reason."""


def frames(path: Path, size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
    """Yields the frames of the first video stream as uint8 RGB [h, w, 3], in decoding order.

    Frames are counted as they come and never found by their presentation stamps: the packed
    B-frames of UCF101 carry stamps 1, 2, 4, 3, ...

    Args:
      path: a file that FFmpeg can read.
      size: (width, height) to resize to as `RESIZE` says; else as they are.

    Raises:
      UnreadableVideo: the file does not decode, holds no frame, or ends well before the number of
        frames that its header declares.
    """
    count = declared = 0
    reformatter = VideoReformatter()
    try:
        # Some files of HMDB51 carry metadata that is not UTF-8.
        with av.open(f"file:{path}", metadata_errors="ignore") as container:  # "a:b" is no protocol
            if not container.streams.video:
                raise UnreadableVideo("no video stream")
            stream = container.streams.video[0]
            declared = stream.frames
            for frame in container.decode(stream):
                image = reformatter.reformat(frame, format="rgb24").to_ndarray()
                count += 1
                yield image if size is None else resize(image, size)
    except (FFmpegError, OSError) as error:
        reason = error.strerror or type(error).__name__
        raise UnreadableVideo(f"does not decode after {count} frames: {reason}") from error
    if not count:
        raise UnreadableVideo("holds no frame")
    # Headers are off by a frame in whole files (most of HMDB51), never by this much.
    if declared - count > 2 + 0.05 * declared:
        raise UnreadableVideo(f"truncated: {count} of {declared} frames")


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    # Bilinear is TSN's, of frames that are smaller than `size`; in a large video it would skip
    # pixels, and their aliasing would move otherwise than the scene.
    if image.shape[1::-1] == size:
        return image
    shrinks = image.shape[1] >= size[0] and image.shape[0] >= size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=method)
