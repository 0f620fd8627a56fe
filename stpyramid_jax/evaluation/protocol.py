"""Class scores of clips: views at evenly spaced positions, scores averaged before the softmax."""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Array, Float

from stpyramid_jax.evaluation.report import write_report
from stpyramid_jax.experiment import Experiment, check_workdir, run_record
from stpyramid_jax.input.pipeline import eval_batches
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.models.pyramid import Outputs, Pyramid, create_model
from stpyramid_jax.performance import compiler_options
from stpyramid_jax.progress import progress_bar
from stpyramid_jax.training.checkpoint import load_variables
from stpyramid_jax.training.sharding import make_mesh, round_up, shard_batch

_INPUTS = ("rgb", "flow", "frames")


def forward(variables: Any, inputs: Mapping[str, Array], *, model: Pyramid) -> Float[Array, "B K"]:
    """Scores of each position, the mean over its crops: inputs are [B, crops, ...]."""
    rows, crops = next(iter(inputs.values())).shape[:2]
    folded = {name: x.reshape(rows * crops, *x.shape[2:]) for name, x in inputs.items()}
    outputs = cast(Outputs, model.apply(variables, folded, train=False))
    return outputs.logits.reshape(rows, crops, -1).mean(axis=1)


def clip_scores(
    variables: Any,
    model: Pyramid,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: jax.sharding.Mesh,
    progress=lambda done: None,
) -> dict[int, Float[np.ndarray, " K"]]:
    """Mean class scores by video over all its positions and crops (before the softmax).

    Args:
      batches: of `eval_batches`; rows whose mask is False count nothing.
      progress: called with the number of positions done so far.

    Raises:
      ValueError: scores that are not finite.
    """
    step = jax.jit(functools.partial(forward, model=model), compiler_options=compiler_options())
    totals: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}
    for batch in batches:
        inputs = {name: batch[name] for name in _INPUTS if name in batch}
        scores = np.asarray(step(variables, shard_batch(inputs, mesh)), np.float64)
        for video, row, valid in zip(batch["video"].tolist(), scores, batch["mask"], strict=True):
            if valid:
                totals[video] = totals.get(video, 0) + row
                counts[video] = counts.get(video, 0) + 1
        progress(sum(counts.values()))
    means = {video: totals[video] / counts[video] for video in sorted(totals)}
    broken = [video for video, scores in means.items() if not np.isfinite(scores).all()]
    if broken:
        raise ValueError(
            f"class scores of {len(broken)} of {len(means)} clips are not finite: the checkpoint "
            "is broken; train again"
        )
    return means


def evaluate(experiment: Experiment, shards: Shards, workdir: Path) -> Path:
    """Scores the test part of the split with the latest checkpoint and writes the report.

    Returns:
      the report's folder, `evaluation/<positions>x<crops>-<split>`.

    Raises:
      ValueError: the workdir holds no checkpoint, or one of another model or data set.
    """
    check_workdir(workdir, run_record(experiment, shards))
    mesh = make_mesh()
    variables, step = load_variables(experiment, workdir, mesh)
    settings, split = experiment.evaluation, experiment.data.split
    videos = shards.select(split, "test")
    batches = eval_batches(
        shards,
        videos,
        experiment.input,
        settings.positions,
        settings.crops,
        round_up(settings.batch_size, mesh),
    )
    total = len(videos) * settings.positions
    with progress_bar(total, f"positions of {len(videos)} clips") as show:
        scores = clip_scores(variables, create_model(experiment.model), batches, mesh, show)
    folder = workdir / "evaluation" / f"{settings.positions}x{settings.crops}-{split}"
    clips = [shards.videos[video] for video in scores]
    write_report(
        folder,
        np.stack(list(scores.values())),
        np.array([clip.label for clip in clips]),
        [clip.name for clip in clips],
        shards.classes,
        {
            "protocol": f"{settings.positions} positions x {settings.crops} crops",
            "crop": experiment.input.crop,
            "test_scale": experiment.input.test_scale,
            "test_tau": experiment.input.test_tau,
            "motion": experiment.model.motion,
            "dataset": shards.name,
            "digest": shards.digest,
            "split": split,
            "step": step,
        },
    )
    return folder
