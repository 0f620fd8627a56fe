"""Optical flow between consecutive frames, as bytes."""

import functools
import inspect
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import jax
import numpy as np

from stpyramid_jax.ops.tvl1 import tvl1

METHODS = ("tvl1", "opencv", "dis")
BOUND = 20.0  # pixels; TSN's
BATCH = 8  # pairs in one call of tvl1


def quantise(flow: np.ndarray, bound: float = BOUND) -> np.ndarray:
    """Rounds 255 (v + bound) / (2 bound) and clips it to uint8; zero becomes 128.

    Args:
      flow: displacements in pixels, any shape.
      bound: the largest displacement that is kept.
    """
    return np.clip(np.floor(255 * (flow + bound) / (2 * bound) + 0.5), 0, 255).astype(np.uint8)


def dequantise(field: np.ndarray, bound: float = BOUND) -> np.ndarray:
    """Inverse of `quantise` up to half a step, bound / 255 pixels; float32."""
    return field.astype(np.float32) * np.float32(2 * bound / 255) - np.float32(bound)


def flow_fields(frames: Iterable[np.ndarray], method: str) -> Iterator[np.ndarray]:
    """Yields the flow from each frame to the next, one fewer than there are frames.

    Frames are drawn as they are needed, so that a video of any length takes the same memory.

    Args:
      frames: uint8 grey [h, w], all of one shape.
      method: "tvl1" (`stpyramid_jax.ops.tvl1`), "opencv" (its DualTVL1) or "dis" (its DIS, medium).

    Yields:
      uint8 [2, h, w], x over y, quantised with `BOUND`.
    """
    flow = {"tvl1": _tvl1_flow, "opencv": _opencv_flow, "dis": _dis_flow}[method]
    for field in flow(itertools.pairwise(frames)):
        yield quantise(np.moveaxis(field, -1, 0))


def flow_parameters(method: str) -> dict:
    """Everything but the frames that shapes the bytes of a field."""
    parameters = {"method": method, "bound": BOUND}
    if method == "tvl1":
        parameters |= {
            name: parameter.default
            for name, parameter in inspect.signature(tvl1).parameters.items()
            if parameter.default is not parameter.empty
        }
        parameters |= {"batch": BATCH, "platform": jax.default_backend(), "jax": jax.__version__}
    return parameters


def _tvl1_flow(pairs):
    pending, count = (), 0
    while batch := list(itertools.islice(pairs, BATCH)):
        # The last batch is filled up so that one shape is compiled; pairs do not mix.
        filled = batch + batch[-1:] * (BATCH - len(batch))
        first, second = (np.stack(images) for images in zip(*filled, strict=True))
        flow = _compiled_tvl1()(first, second)
        # While the device is at this batch, the host writes the last and decodes the next.
        yield from np.asarray(pending)[:count]
        pending, count = flow, len(batch)
    yield from np.asarray(pending)[:count]


@functools.cache
def _compiled_tvl1():
    return jax.jit(tvl1)


def _opencv_flow(pairs):
    solver: Any = cv2.optflow.DualTVL1OpticalFlow.create()
    for first, second in pairs:
        yield solver.calc(first, second, None)


def _dis_flow(pairs):
    solver: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for first, second in pairs:
        yield solver.calc(first, second, None)
