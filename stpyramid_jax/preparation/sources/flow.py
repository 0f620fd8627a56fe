"""Optical flow between consecutive frames, as bytes."""

import functools
import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import cv2
import jax
import numpy as np

from stpyramid_jax.ops.tvl1 import tvl1
from stpyramid_jax.preparation.sources.camera import camera_parameters, without_camera

METHODS = ("tvl1", "opencv", "dis")
BOUND = 20.0  # pixels; TSN's


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


def flow_fields(
    frames: Iterable[np.ndarray], method: str, families: Sequence[str] = ("flow",)
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields the flow from each frame to the next, one fewer than there are frames.

    Frames are drawn as they are needed, so that a video of any length takes the same memory.

    Args:
      frames: uint8 grey [h, w], all of one shape.
      method: "tvl1" (`stpyramid_jax.ops.tvl1`), "opencv" (its DualTVL1) or "dis" (its DIS, medium).
      families: "flow", and "warped" for flow without the motion of the camera.

    Yields:
      For each family uint8 [2, h, w], x over y, quantised with `BOUND`.
    """
    compute = {"tvl1": _tvl1_flow, "opencv": _opencv_flow, "dis": _dis_flow}[method]
    for first, flow in compute(itertools.pairwise(frames)):
        motions = (flow if family == "flow" else without_camera(first, flow) for family in families)
        yield tuple(quantise(np.moveaxis(motion, -1, 0)) for motion in motions)


def flow_parameters(method: str, families: Sequence[str] = ("flow",)) -> dict:
    """Everything but the frames that shapes the bytes of fields."""
    parameters: dict[str, Any] = {"method": method, "bound": BOUND}
    if "warped" in families:
        parameters["camera"] = camera_parameters()
    if method == "tvl1":
        parameters |= {
            name: parameter.default
            for name, parameter in inspect.signature(tvl1).parameters.items()
            if parameter.default is not parameter.empty
        }
        parameters |= {"platform": jax.default_backend(), "jax": jax.__version__}
        parameters["x64"] = bool(jax.config.read("jax_enable_x64"))
    return parameters


def _tvl1_flow(pairs):
    unit, most = _batch_sizes()
    pending = iter(())
    while batch := list(itertools.islice(pairs, most)):
        # Filled up to its shape; pairs do not mix.
        filled = batch + batch[-1:] * (-len(batch) % unit)
        flow = _compiled_tvl1()(*(np.stack(images) for images in zip(*filled, strict=True)))
        # While the device is at this batch, the host writes the last and decodes the next.
        yield from pending
        pending = _when_ready(batch, flow)
    yield from pending


def _batch_sizes() -> tuple[int, int]:
    """Of a call of tvl1: the number that all are multiples of, and the largest."""
    # A CPU takes pairs one after the other in any case. Accelerators want many at once, and few
    # beyond the end of a video: four shapes to compile.
    return (1, 1) if jax.default_backend() == "cpu" else (8, 32)


def _when_ready(batch, flow):
    for (first, _), field in zip(batch, np.asarray(flow), strict=False):  # without the filling
        yield first, field


@functools.cache
def _compiled_tvl1():
    return jax.jit(tvl1)


def _opencv_flow(pairs):
    solver: Any = cv2.optflow.DualTVL1OpticalFlow.create()
    for first, second in pairs:
        yield first, solver.calc(first, second, None)


def _dis_flow(pairs):
    solver: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for first, second in pairs:
        yield first, solver.calc(first, second, None)
