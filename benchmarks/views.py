"""Testing at many views of a clip, beside a loop over single views: views a second, and memory.

    python benchmarks/views.py --workdir=ckpt-ucf10 --shards=shards/ucf10 --clips=5
    python benchmarks/views.py --workdir=ckpt-ucf10 --shards=shards/ucf10 --json=views.json

The loop reads and decodes the frame and the fields of a view, cuts its crop, and gives it alone to
the compiled model, one after the other, as the public contract has it. Both give every clip its
scores, which are compared. The clips are those of the run's test part (or the first --clips of
them), at 25 positions x 10 crops, 2 x 3 with --quick; each of the two runs once, after what is
compiled was compiled. Beside that come the images that go through the backbones, and the peak of
memory at 1, 5 and 25 positions, each in a process of its own that runs the protocol alone.
"""

import argparse
import contextlib
import functools
import itertools
import multiprocessing
import sys
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast

import comparison
import jax
import numpy as np
from comparison import Row

from stpyramid_jax.evaluation.protocol import clip_scores, jitted_forward
from stpyramid_jax.experiment import Experiment, load_experiment
from stpyramid_jax.input import augment, sampling
from stpyramid_jax.input.pipeline import eval_batches
from stpyramid_jax.input.reading import read_views
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.models.pyramid import Outputs, create_model
from stpyramid_jax.performance import compiler_options
from stpyramid_jax.training.checkpoint import load_trained
from stpyramid_jax.training.sharding import make_mesh, round_up

PACKAGES = ("jax", "jaxlib", "flax", "grain", "opencv-contrib-python-headless", "numpy")
POSITIONS = (1, 5, 25)  # at which memory is measured
TOLERANCE = 1e-3  # of the scores' mean size


class Run(NamedTuple):
    """A trained run and the clips that it is tested on."""

    experiment: Experiment
    shards: Shards
    variables: Any
    videos: np.ndarray


def load(workdir: Path, shards: Path, clips: int | None) -> Run:
    experiment, data = load_experiment(workdir)[0], Shards(shards)
    variables = load_trained(experiment, workdir, make_mesh()).variables
    return Run(experiment, data, variables, data.select(experiment.data.split, "test")[:clips])


def batches(run: Run, positions: int, crops: int) -> Generator[dict[str, np.ndarray], None, None]:
    """As evaluation has them, on all devices."""
    experiment, mesh = run.experiment, make_mesh()
    size = round_up(experiment.evaluation.batch_size, mesh)
    return eval_batches(
        run.shards, run.videos, experiment.input, positions, crops, size, parts=mesh.size
    )


def together(run: Run, positions: int, crops: int) -> tuple[float, np.ndarray]:
    """Seconds of the protocol, and the scores of each clip."""
    step, mesh = jitted_forward(create_model(run.experiment.model), make_mesh()), make_mesh()
    with contextlib.closing(batches(run, positions, crops)) as some:
        clip_scores(run.variables, step, itertools.islice(some, 1), mesh)  # compiles
    began = time.perf_counter()
    found = clip_scores(run.variables, step, batches(run, positions, crops), mesh)
    return time.perf_counter() - began, np.stack([found[v] for v in run.videos.tolist()])


def alone(run: Run, positions: int, crops: int) -> tuple[float, np.ndarray]:
    """Seconds of a loop over single views, and the scores of each clip."""
    model, config = create_model(run.experiment.model), run.experiment.input
    length, tau = config.snippet_length, config.test_tau

    def forward(variables: Any, images: dict[str, np.ndarray]) -> jax.Array:
        return cast(Outputs, model.apply(variables, images, train=False)).logits

    jitted = jax.jit(forward, compiler_options=compiler_options())
    variables = jax.device_put(run.variables)

    def score(video: int, sample: sampling.Sample, crop: int) -> np.ndarray:
        def box(size: tuple[int, int]) -> list[augment.View]:
            return [augment.test_views(size, config.test_scale, crops)[crop]]

        images = {name: np.empty((1, *shape), np.uint8) for name, shape in config.shapes.items()}
        read_views(run.shards, video, sample, config, box, images)
        return np.asarray(jitted(variables, images), np.float64)[0]

    def scores(video: int) -> np.ndarray:
        fields = run.shards.videos[video].fields
        samples = sampling.test_samples(fields, positions, config.snippets, length, tau)
        return np.mean([score(video, s, crop) for s in samples for crop in range(crops)], axis=0)

    score(int(run.videos[0]), sampling.test_samples(40, 1, config.snippets, length, tau)[0], 0)
    began = time.perf_counter()
    found = [scores(video) for video in run.videos.tolist()]
    return time.perf_counter() - began, np.stack(found)


def peak(workdir: Path, shards: Path, clips: int | None, positions: int, crops: int) -> float:
    """Most memory in MB that this process ever had, after the protocol (Linux)."""
    together(load(workdir, shards, clips), positions, crops)
    # Not ru_maxrss, which a process inherits from the one that starts it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def compared(chosen: argparse.Namespace) -> Iterator[Row]:
    positions, crops = (2, 3) if chosen.quick else (25, 10)
    run = load(chosen.workdir, chosen.shards, chosen.clips)
    views = len(run.videos) * positions * crops
    case = f"{len(run.videos)} clips, {positions} x {crops}"
    images = [
        sum(b[n].shape[0] * b[n].shape[1] for n in ("rgb", "flow", "frames") if n in b)
        for b in batches(run, positions, crops)
    ]
    config = run.experiment.input
    each = sum(config.snippets if name != "rgb" else 1 for name in config.inputs)
    yield Row(f"{case}, images", "loop over views", sum(images), views * each, "images")
    (seconds, found), (longer, expected) = (way(run, positions, crops) for way in (together, alone))
    comparison.check_equal(case, [found], [expected], TOLERANCE)
    yield Row(case, "loop over views", views / seconds, views / longer, "views/s")
    yield Row(f"{case}, wall time", "loop over views", seconds, longer, "s")
    if not Path("/proc/self/status").exists():
        return
    start = functools.partial(ProcessPoolExecutor, 1, multiprocessing.get_context("spawn"))
    memory = []
    for number in POSITIONS[:2] if chosen.quick else POSITIONS:
        with start() as pool:
            asked = (chosen.workdir, chosen.shards, chosen.clips, number, crops)
            memory.append(pool.submit(peak, *asked).result())
        yield Row(f"peak at {number} x {crops}", "1 position", memory[-1], memory[0], "MB")


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--clips", type=int)
    mine, sys.argv[1:] = parser.parse_known_args()
    chosen = argparse.Namespace(**vars(comparison.options(__doc__)), **vars(mine))
    rows = list(comparison.tabulated(compared(chosen), PACKAGES))
    if chosen.json:
        comparison.write(chosen.json, rows, PACKAGES)


if __name__ == "__main__":
    main()
