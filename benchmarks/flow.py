"""`tvl1` beside OpenCV's and scikit-image's flow: seconds a pair and endpoint error, from one run.

    python benchmarks/flow.py
    python benchmarks/flow.py --quick --json=flow.json

Pairs of 340x256 with known motion, each method on one core, in turn, medians of the repetitions.
First come frames of rendered texture, whose motion is exact between pixels: the error is a method's
own. Then, where the environment variable STPYRAMID_REAL names a folder of real clips (README.md),
frames of some, moved by cubic interpolation: nothing is hidden, and noise moves with its pixel.
--quick takes two rendered pairs, three repetitions at most, and leaves out scikit-image.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
os.environ["NPROC"] = "1"

import functools
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comparison
import cv2
import jax
import numpy as np
from comparison import Row

from stpyramid_jax import tvl1
from stpyramid_jax.preparation.sources.decode import frames

WIDTH, HEIGHT, EDGE = 340, 256, 20
SMOOTH = "smooth up to 5.7 px"
QUICK = ("translation 0.5 px", SMOOTH)

Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


def motions() -> dict[str, np.ndarray]:
    """Displacement [H, W, 2] of each kind of motion about the image's centre, in pixels."""
    x, y = np.meshgrid(np.arange(WIDTH) - (WIDTH - 1) / 2, np.arange(HEIGHT) - (HEIGHT - 1) / 2)
    cos, sin = np.cos(np.deg2rad(3)), np.sin(np.deg2rad(3))
    affine = {
        "translation 0.5 px": (np.eye(2), (0.4, -0.3)),
        "translation 6.8 px": (np.eye(2), (6.3, -2.6)),
        "rotation 3 degrees": ([[cos, -sin], [sin, cos]], (0, 0)),
        "zoom 4 %": (1.04 * np.eye(2), (0, 0)),
    }
    place = np.stack([x, y], -1)
    found = {
        name: np.einsum("kc,hwc->hwk", np.array(matrix) - np.eye(2), place) + np.array(shift)
        for name, (matrix, shift) in affine.items()
    }
    across, down = 2 * np.pi * x / WIDTH, 2 * np.pi * y / HEIGHT
    waves = np.stack([np.sin(across + down), np.cos(across - down)], -1)
    return {**found, SMOOTH: 2.5 * waves + np.array([2.0, -1.0])}


def texture(shift: np.ndarray | float) -> np.ndarray:
    """Sixty plane waves at the pixels moved by `shift`; uint8 [H, W]."""
    random = np.random.default_rng(0)
    frequency = random.uniform(0.02, 0.9, 60)  # radians per pixel
    angle, phase = random.uniform(0, 2 * np.pi, (2, 60))
    amplitude = 1 / (frequency + 0.08)
    x, y = np.meshgrid(np.arange(float(WIDTH)), np.arange(float(HEIGHT)))
    at = np.stack([x, y], -1) + shift
    along = np.cos(angle) * at[..., :1] + np.sin(angle) * at[..., 1:]
    waves = np.sin(frequency * along + phase) @ amplitude
    scaled = 127 + 45 * waves / np.sqrt((amplitude**2).sum() / 2)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def moved(image: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """image(x + motion(x)) by cubic interpolation; uint8 [H, W]."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    at = (np.stack([x, y], -1) + motion).astype(np.float32)
    border = cv2.BORDER_REPLICATE
    return cv2.remap(image, at[..., 0], at[..., 1], cv2.INTER_CUBIC, borderMode=border)


def pairs(quick: bool) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Case, first frame, second frame, and the motion between them."""
    found = motions()
    for name in QUICK if quick else found:
        yield f"rendered, {name}", texture(found[name]), texture(0.0), found[name]
    if quick:
        return
    videos = Path(os.environ.get("STPYRAMID_REAL", ""), "ucf10/videos")
    if not videos.is_dir():
        print("no real frames: STPYRAMID_REAL names no folder of them", file=sys.stderr)
        return
    for clip in [min(kind.glob("*.avi")) for kind in sorted(videos.iterdir())[::3]]:
        image = next(frames(clip, (WIDTH, HEIGHT)))
        second = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        yield f"{clip.parent.name}, {SMOOTH}", moved(second, found[SMOOTH]), second, found[SMOOTH]


def dual_tvl1(**settings: float) -> Method:
    """OpenCV's TV-L1 with some of its `set*` methods called."""
    contrib: Any = cv2.optflow  # a module that OpenCV's stubs do not describe
    solver = contrib.DualTVL1OpticalFlow_create()
    for name, value in settings.items():
        getattr(solver, f"set{name}")(value)
    return lambda first, second: solver.calc(first, second, None)


def dis(preset: int) -> Method:
    solver: Any = cv2.DISOpticalFlow.create(preset)
    return lambda first, second: solver.calc(first, second, None)


def peers(quick: bool) -> dict[str, Method]:
    """Peers by name; scikit-image, which is optional, with its axes turned to (x, y)."""
    found = {
        "OpenCV DualTVL1": dual_tvl1(),
        # With the scales of `tvl1`, and its warps and steps at the finest of them.
        "OpenCV DualTVL1 (ScaleStep=0.5, WarpingsNumber=3, InnerIterations=1)": dual_tvl1(
            ScaleStep=0.5, WarpingsNumber=3, InnerIterations=1
        ),
        "OpenCV DIS medium": dis(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM),
        "OpenCV DIS fast": dis(cv2.DISOPTICAL_FLOW_PRESET_FAST),
        "OpenCV DIS ultrafast": dis(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST),
    }
    if not quick and importlib.util.find_spec("skimage"):
        from skimage.registration import optical_flow_tvl1

        found["scikit-image optical_flow_tvl1"] = lambda first, second: np.moveaxis(
            optical_flow_tvl1(first, second)[::-1], 0, -1
        )
    elif not quick:
        print("scikit-image is not installed: left out", file=sys.stderr)
    return found


def packages(quick: bool) -> list[str]:
    found = ["jax", "jaxlib", "opencv-contrib-python-headless", "numpy"]
    return found + ["scikit-image"] * (not quick and bool(importlib.util.find_spec("skimage")))


def error(flow: np.ndarray, truth: np.ndarray) -> float:
    """Mean endpoint error in pixels, without the border that has no source."""
    inner = np.s_[EDGE:-EDGE, EDGE:-EDGE]
    return float(np.linalg.norm(flow - truth, axis=-1)[inner].mean())


def compared(quick: bool, repetitions: int) -> Iterator[Row]:
    """Two rows for each case and peer: the error and the time of a pair."""
    solver = jax.jit(tvl1)
    others = peers(quick)
    methods = [lambda first, second: np.asarray(solver(first, second)), *others.values()]
    for case, first, second, truth in pairs(quick):
        runs = [functools.partial(method, first, second) for method in methods]
        our_error, *errors = [error(run(), truth) for run in runs]
        our_time, *times = comparison.in_turn(runs, min(repetitions, 3) if quick else repetitions)
        for name, there, then in zip(others, errors, times, strict=True):
            yield Row(f"{case}, error", name, our_error, there, "px")
            yield Row(f"{case}, a pair", name, our_time, then, "s")


def main() -> None:
    chosen = comparison.options(__doc__)
    cv2.setNumThreads(1)
    found = compared(chosen.quick, chosen.repetitions)
    rows = list(comparison.tabulated(found, packages(chosen.quick)))
    if chosen.json:
        comparison.write(chosen.json, rows, packages(chosen.quick))


if __name__ == "__main__":
    main()
