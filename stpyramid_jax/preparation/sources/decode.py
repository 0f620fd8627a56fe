"""Frames of a video file."""

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video import VideoStream
from av.video.reformatter import VideoReformatter

RESIZE = "after decoding, cv2.INTER_AREA where no side grows, else cv2.INTER_LINEAR"

MAX_PIXELS = 8192 * 8192  # a small file can claim frames that fill the memory


class UnreadableVideo(ValueError):
    """A video that cannot be prepared, with the reason."""


def frames(path: Path, size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
    """Yields the frames of the first video stream as uint8 RGB [h, w, 3], in decoding order.

    Frames are counted as they come and never found by their presentation stamps: the packed
    B-frames of UCF101 carry stamps 1, 2, 4, 3, ... They are turned as players show them, and what
    an edit list cuts away is left out. Whatever the file says, no other file is opened.

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
        with opened(path) as container:
            if not container.streams.video:
                raise UnreadableVideo("no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise UnreadableVideo("no decoder for its codec")
            if stream.width * stream.height > MAX_PIXELS:
                raise UnreadableVideo(f"frames of {stream.width}x{stream.height} pixels, too large")
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # where they grow
            declared = _declared(container, stream)
            for frame in container.decode(stream):
                image = reformatter.reformat(frame, format="rgb24").to_ndarray()
                image = _upright(image, frame)
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


@contextlib.contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise UnreadableVideo("is not a regular file")
    with path.open("rb") as file:
        # A playlist called a.avi could name other files and addresses: FFmpeg gets this file open,
        # and no means to open more.
        options = {"fd": str(file.fileno()), "protocol_whitelist": "fd"}
        # Some files of HMDB51 carry metadata that is not UTF-8.
        with av.open("fd:", container_options=options, metadata_errors="ignore") as container:
            yield container


def _declared(container: InputContainer, stream: VideoStream) -> int:
    """Number of frames that the file says it shows, 0 where it does not say."""
    # The index of an AVI is at its end, where a truncated one has none; that of an MP4 is in its
    # header, and marks what the edit list cuts away.
    if container.format.name.startswith("mov"):
        return sum(not entry.is_discard for entry in stream.index_entries)
    return stream.frames


def _upright(image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """The image turned and mirrored as the frame's display matrix says, to whole quarters."""
    # Phones store what the sensor saw, however it was held, and this matrix. It takes the place
    # (x, y) to (a x + c y, b x + d y) and a shift.
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    (a, b), (c, d) = np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2].tolist()
    if abs(b) > abs(a):
        image, a, d = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    # Bilinear is TSN's, of frames that are smaller than `size`; in a large video it would skip
    # pixels, and their aliasing would move otherwise than the scene.
    if image.shape[1::-1] == size:
        return image
    shrinks = image.shape[1] >= size[0] and image.shape[0] >= size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=method)
