"""`tvl1` beside OpenCV's DualTVL1: seconds a pair and endpoint error, from one run.

    python benchmarks/flow.py
    python benchmarks/flow.py --quick --json=flow.json

Pairs of rendered texture, 340x256, with known motion; both on one core, in turn, medians of the
repetitions. The motion is exact between pixels, so the error is the method's own.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
os.environ["NPROC"] = "1"

from collections.abc import Iterator
from typing import Any

import comparison
import cv2
import jax
import numpy as np
from comparison import Row

from stpyramid_jax import tvl1

PACKAGES = ("jax", "jaxlib", "opencv-contrib-python-headless", "numpy")
PEER = "OpenCV DualTVL1, one core"
WIDTH, HEIGHT, EDGE = 340, 256, 20


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
    return {
        name: np.einsum("kc,hwc->hwk", np.array(matrix) - np.eye(2), place) + np.array(shift)
        for name, (matrix, shift) in affine.items()
    }


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


def error(flow: np.ndarray, truth: np.ndarray) -> float:
    """Mean endpoint error in pixels, without the border that has no source."""
    inner = np.s_[EDGE:-EDGE, EDGE:-EDGE]
    return float(np.linalg.norm(flow - truth, axis=-1)[inner].mean())


def compared(quick: bool, repetitions: int) -> Iterator[Row]:
    """Two rows for each kind of motion: the error and the time of a pair."""
    ours = jax.jit(tvl1)
    contrib: Any = cv2.optflow  # a module that OpenCV's stubs do not describe
    theirs = contrib.DualTVL1OpticalFlow_create()
    for name, truth in list(motions().items())[: 2 if quick else None]:
        first, second = texture(truth), texture(0.0)
        methods = [
            lambda pair=(first, second): np.asarray(ours(*pair)),
            lambda pair=(first, second): theirs.calc(*pair, None),
        ]
        here, there = (error(run(), truth) for run in methods)
        yield Row(f"{name}, endpoint error", PEER, here, there, "px")
        here, there = comparison.in_turn(methods, repetitions)
        yield Row(f"{name}, a pair", PEER, here, there, "s")


def main() -> None:
    chosen = comparison.options(__doc__)
    cv2.setNumThreads(1)
    rows = list(comparison.tabulated(compared(chosen.quick, chosen.repetitions), PACKAGES))
    if chosen.json:
        comparison.write(chosen.json, rows, PACKAGES)


if __name__ == "__main__":
    main()
