"""Views: a box of the frame, resized to a square and possibly mirrored, in bytes on the host.

One view serves the frames and every flow field of a sample, so that the streams stay aligned.
Boxes are those of Temporal Segment Networks (TSN): sides from a few scales of the frame's short
side, placed on a fixed grid. Resizing is plain bilinear and does not rescale displacements: flow
keeps its unit, pixels of the prepared frame, as in TSN.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

from stpyramid_jax.input.config import CROPS, CROPS_TEXT

# Quarters of the free room (down, right): centre, corners, and TSN's eight more.
_CENTRE = ((2, 2),)
_CORNERS = ((0, 0), (0, 4), (4, 0), (4, 4))
_ENDS = ((0, 0), (4, 4))
_MORE = ((0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3))


@dataclass(frozen=True)
class View:
    """Box `[y, y + height) x [x, x + width)` in pixels, mirrored left to right if `flip`."""

    y: int
    x: int
    height: int
    width: int
    flip: bool


def train_view(
    rng: np.random.Generator, size: tuple[int, int], scales: Sequence[float], flip: bool
) -> View:
    """Draws sides, place and mirroring of a box for training.

    Height and width are scales of the frame's short side, at most one step of `scales` apart; the
    place is one of 13 (corners, centre, edges' middles, inner quarters); mirrored half the time.
    TSN: scales 1, .875, .75, .66 for RGB and the first three for flow.

    Args:
      size: (height, width) of the frame.
      flip: False never mirrors, for actions that differ by direction.
    """
    pairs = [(a, b) for i, a in enumerate(scales) for j, b in enumerate(scales) if abs(i - j) <= 1]
    down, across = pairs[rng.integers(len(pairs))]
    places = _CENTRE + _CORNERS + _MORE
    place = places[rng.integers(len(places))]
    mirrored = flip and bool(rng.integers(2))
    return _view(size, place, _side(size, down), _side(size, across), mirrored)


def test_views(size: tuple[int, int], scale: float, crops: int) -> list[View]:
    """Square boxes of one side: the centre, then the ends or the corners, then mirrors.

    The side is `scale` times the frame's short side. Three boxes are those of SlowFast networks
    (Feichtenhofer et al. 2019, "3 crops to cover the spatial dimensions"): of the whole short side,
    whatever the scale, in the middle and at both ends of the long one.

    Args:
      size: (height, width) of the frame.
      scale: TSN cuts 224 out of 340 x 256, so .875.
      crops: 1 (centre), 3 (and both ends), 5 (and corners) or 10 (and their mirrors).

    Raises:
      ValueError: any other number of crops.
    """
    if crops not in CROPS:
        raise ValueError(f"crops={crops}: choose {CROPS_TEXT}")
    if crops == 3:
        return [_view(size, place, min(size), min(size), False) for place in _CENTRE + _ENDS]
    side = _side(size, scale)
    places = _CENTRE if crops == 1 else _CENTRE + _CORNERS
    mirrors = (False, True) if crops == 10 else (False,)
    return [_view(size, place, side, side, flip) for flip in mirrors for place in places]


def view_frame(
    frame: UInt8[np.ndarray, "h w 3"], view: View, out: UInt8[np.ndarray, "crop crop 3"]
) -> None:
    """Writes the view of an RGB frame."""
    _cut(frame, view, out)


def view_field(
    field: UInt8[np.ndarray, "2 h w"], view: View, out: UInt8[np.ndarray, "2 crop crop"]
) -> None:
    """Writes the view of a flow field; if mirrored it moves the other way, byte x as 255 - x."""
    for plane, place in zip(field, out, strict=True):
        _cut(plane, view, place)
    if view.flip:
        np.subtract(255, out[0], out=out[0])


def stack_snippets(
    fields: UInt8[np.ndarray, "n 2 H W"],
    indices: Int64[np.ndarray, "T L"],
    out: UInt8[np.ndarray, "T H W C"],
) -> None:
    """Writes snippets, their L fields as C = 2 L channels x1, y1, x2, y2, ... (as TSN)."""
    _, height, width, channels = out.shape
    for snippet, chosen in zip(out, indices, strict=True):
        # Runs, which all are but at the ends of a clip, need not be copied.
        run = bool((np.diff(chosen) == 1).all())
        chosen = slice(chosen[0], chosen[-1] + 1) if run else chosen
        planes = fields[chosen].reshape(channels, -1)
        # NumPy's transposed copy takes several times as long.
        cv2.transpose(planes, snippet.reshape(height * width, channels))


def _cut(image: np.ndarray, view: View, out: np.ndarray) -> None:
    # No cv2.setNumThreads: below 2^16 output pixels a resize stays on the calling thread.
    box = image[view.y : view.y + view.height, view.x : view.x + view.width]
    cv2.resize(box, out.shape[:2], out, interpolation=cv2.INTER_LINEAR)
    if view.flip:
        cv2.flip(out, 1, out)


def _side(size: tuple[int, int], scale: float) -> int:
    return max(1, int(scale * min(size)))


def _view(
    size: tuple[int, int], place: tuple[int, int], height: int, width: int, flip: bool
) -> View:
    y = (size[0] - height) * place[0] // 4
    x = (size[1] - width) * place[1] // 4
    return View(y, x, height, width, flip)
