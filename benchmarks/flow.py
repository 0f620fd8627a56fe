"""`tvl1` beside OpenCV's DualTVL1: seconds a pair and endpoint error, from one run.

    python benchmarks/flow.py

Pairs of rendered texture, 340x256, with known motion; both on one core, in turn, medians of the
repetitions. The motion is exact between pixels, so the error is the method's own.
"""

import argparse
import os

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
os.environ["NPROC"] = "1"

import platform
import statistics
import time
from typing import Any

import cv2
import jax
import numpy as np

from stpyramid_jax import tvl1

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=7)
    repetitions = parser.parse_args().repetitions
    ours = jax.jit(tvl1)
    contrib: Any = cv2.optflow  # a module that OpenCV's stubs do not describe
    theirs = contrib.DualTVL1OpticalFlow_create()
    cv2.setNumThreads(1)
    methods = {
        "ours": lambda a, b: np.asarray(ours(a, b)),
        "theirs": lambda a, b: theirs.calc(a, b, None),
    }
    print(f"{platform.processor() or platform.machine()}, {jax.default_backend()}, one core")
    print(f"jax {jax.__version__}, OpenCV {cv2.__version__}\n")
    print(
        f"{'motion':20} {'error: ours':>12} {'OpenCV':>8} {'s/pair: ours':>13} {'OpenCV':>8} ratio"
    )
    for name, truth in motions().items():
        pair = texture(truth), texture(0.0)
        errors = {who: error(method(*pair), truth) for who, method in methods.items()}
        times = {who: [] for who in methods}
        for _ in range(repetitions):
            for who, method in methods.items():
                began = time.perf_counter()
                method(*pair)
                times[who].append(time.perf_counter() - began)
        median = {who: statistics.median(values) for who, values in times.items()}
        print(
            f"{name:20} {errors['ours']:12.3f} {errors['theirs']:8.3f} {median['ours']:13.3f} "
            f"{median['theirs']:8.3f} {median['theirs'] / median['ours']:5.0f}"
        )


if __name__ == "__main__":
    main()
