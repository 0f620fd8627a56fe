"""A video with what the model makes of it: attention over the frame, flow, and the class."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.codec import codecs_available
from jaxtyping import UInt8

from stpyramid_jax.colour import flow_colour, heat
from stpyramid_jax.evaluation.timeline import Moment, Window
from stpyramid_jax.evaluation.videos import shown
from stpyramid_jax.input.augment import test_views
from stpyramid_jax.preparation.sources.decode import frames
from stpyramid_jax.preparation.sources.flow import dequantise
from stpyramid_jax.progress import say

_LONGEST = 6.0  # pixels of the prepared frame; one scale for a video, whose colours then keep still
_LEAST_HEIGHT = 240  # pixels, for words that can be read
_LEAST_RATE = Fraction(1, 1001)  # frames a second
_WHITE, _DARK = (255, 255, 255), (40, 40, 40)


def write_overlay(
    found: Iterable[Moment],
    video: Path,
    path: Path,
    classes: Sequence[str],
    rate: Fraction,
    test_scale: float,
) -> None:
    """Writes a video as MP4, H.264 where PyAV has it and MPEG-4 elsewhere, without its sound.

    Each frame shows the moment whose middle is nearest. Frames are counted and shown `rate` a
    second; slower ones are shown at one in 1001 seconds, and that is said. Low videos are enlarged
    by a whole factor; odd sides grow by a line.

    Args:
      found: of `moments`, all of them.
      video: the same file.
      path: what is there is replaced once all is written.
      test_scale: of the crop that the model sees, part of the frame's short side.
    """
    if rate < _LEAST_RATE:
        say(f"{shown(video)}: {rate} frames a second, shown as {_LEAST_RATE}")
    part = path.with_name(f".{path.name}.part")
    rate = max(rate.limit_denominator(1001), _LEAST_RATE)
    pictures = _pictures(frames(video), found, classes, test_scale)
    try:
        with part.open("wb") as file:
            _encode(pictures, file, rate)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _encode(pictures: Iterator[np.ndarray], file: Any, rate: Fraction) -> None:
    codec = "libx264" if "libx264" in codecs_available else "mpeg4"
    first = next(pictures)
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(first, "rgb24")))
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def _pictures(
    images: Iterable[np.ndarray], found: Iterable[Moment], classes: Sequence[str], scale: float
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """All of one size, that of the first."""
    coming, size = iter(found), None
    moment = next(coming)
    following = next(coming, None)
    for number, image in enumerate(images):
        while following and 2 * number > moment.window.middle + following.window.middle:
            moment, following = following, next(coming, None)
        size = size or _even(image)
        if image.shape[1::-1] != size:
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        yield draw(image, moment, number, classes, scale)


def _even(image: np.ndarray) -> tuple[int, int]:
    """(width, height) that encoders take and words can be read in."""
    factor = max(1, -(-_LEAST_HEIGHT // image.shape[0]))
    width, height = (side * factor for side in image.shape[1::-1])
    return width + width % 2, height + height % 2


def draw(
    image: UInt8[np.ndarray, "h w 3"],
    moment: Moment,
    number: int,
    classes: Sequence[str],
    test_scale: float,
) -> UInt8[np.ndarray, "h w 3"]:
    """Frame `number` of a video with attention in the box it is of, flow above, class below."""
    picture = image.copy()
    if moment.attention is not None:
        box = _box(image, moment.window, test_scale)
        picture[box] = heat(picture[box], moment.attention)
    fields = moment.window.fields
    if fields:
        field = fields[min(max(number - moment.window.start, 0), len(fields) - 1)]
        colours = flow_colour(dequantise(np.moveaxis(field, 0, -1)), _LONGEST)
        _inset(picture, colours)
    best = int(moment.probabilities.argmax())
    _label(picture, shown(f"{moment.probabilities[best]:.0%}  {classes[best]}"))
    return picture


def _box(image: np.ndarray, window: Window, scale: float) -> tuple[slice, slice]:
    """The centre crop of the prepared frame, in pixels of the video's own."""
    height, width = window.images[0].shape[:2]
    (view,) = test_views((height, width), scale, 1)
    down, across = image.shape[0] / height, image.shape[1] / width
    return (
        slice(round(view.y * down), round((view.y + view.height) * down)),
        slice(round(view.x * across), round((view.x + view.width) * across)),
    )


def _inset(picture: np.ndarray, colours: np.ndarray) -> None:
    """Lays colours into the upper right corner, a quarter as wide as the picture, framed."""
    height, width = (max(3, side // 4) for side in picture.shape[:2])
    corner = picture[:height, -width:]
    corner[:] = _DARK
    inside = corner[:-1, 1:]
    inside[:] = cv2.resize(colours, inside.shape[1::-1], interpolation=cv2.INTER_AREA)


def _label(picture: np.ndarray, words: str) -> None:
    """Writes into a dark band at the lower edge; long words are made smaller and then cut."""
    face = cv2.FontFace("sans")
    height, width = picture.shape[:2]
    usual = height // 14
    wide = cv2.getTextSize((width, height), words, (0, 0), face, usual)[2]
    size = max(usual // 2, min(usual, usual * (width - usual) // max(wide, 1)))
    band = picture[height - 2 * usual :]
    band[:] = band // 3
    cv2.putText(picture, words, (usual // 2, height - 2 * usual // 3), _WHITE, face, size)
