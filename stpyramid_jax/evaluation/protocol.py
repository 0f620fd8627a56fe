"""Class scores of clips: views at evenly spaced positions, scores averaged before the softmax."""

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped

from stpyramid_jax.evaluation import metrics
from stpyramid_jax.evaluation.observation import observe
from stpyramid_jax.evaluation.report import write_report
from stpyramid_jax.evaluation.report.curves import read_curves
from stpyramid_jax.experiment import Experiment, check_workdir, run_record
from stpyramid_jax.input.pipeline import eval_batches
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.models.pyramid import Outputs, Pyramid, create_model
from stpyramid_jax.performance import compiler_options
from stpyramid_jax.progress import progress_bar
from stpyramid_jax.training.checkpoint import load_trained
from stpyramid_jax.training.history import trained_on
from stpyramid_jax.training.sharding import make_mesh, replicated, round_up, shard_batch

_INPUTS = ("rgb", "flow", "frames", "snippets")
# Of a validation: one crop of five positions, so that it takes little of a run's time.
_POSITIONS = 5


Forward = Callable[[Any, Mapping[str, Array]], dict[str, Array]]
"""`forward` of a model on a mesh."""


def forward(
    variables: Any, batch: Mapping[str, Array], *, model: Pyramid
) -> dict[str, Shaped[Array, "N ..."]]:
    """`scores` [N, K] of each view of a batch of `eval_batches`, beside its `video` and `mask`."""
    inputs = {name: batch[name] for name in _INPUTS if name in batch}
    about = {name: batch[name].reshape(-1) for name in ("video", "mask")}
    if "rgb" in inputs:
        inputs["rgb"] = inputs["rgb"].reshape(-1, *inputs["rgb"].shape[2:])
    outputs = cast(Outputs, model.apply(variables, inputs, train=False))
    return {"scores": outputs.logits, **about}


def jitted_forward(model: Pyramid, mesh: jax.sharding.Mesh) -> Forward:
    """`forward`, compiled; every device, and so every process, has all of the result."""
    return jax.jit(
        functools.partial(forward, model=model),
        out_shardings=replicated(mesh),
        compiler_options=compiler_options(),
    )


def clip_scores(
    variables: Any,
    step: Forward,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: jax.sharding.Mesh,
    progress=lambda done: None,
) -> dict[int, Float[np.ndarray, " K"]]:
    """Mean class scores by video over all its views (before the softmax).

    Views are added up in float64, so that it hangs on their order by rounding alone.

    Args:
      step: of `jitted_forward`.
      batches: of `eval_batches`, of which views whose mask is False count nothing.
      progress: called with the number of views done so far.

    Raises:
      ValueError: scores that are not finite.
    """
    totals: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}
    for batch in batches:
        images = {name: batch[name] for name in (*_INPUTS, "video", "mask") if name in batch}
        with jax.set_mesh(mesh):
            rows = jax.device_get(step(variables, shard_batch(images, mesh)))
        for video, scores, valid in zip(
            rows["video"].tolist(), rows["scores"].astype(np.float64), rows["mask"], strict=True
        ):
            if valid:
                totals[video] = totals.get(video, 0) + scores
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


def validator(experiment: Experiment, shards: Shards) -> Callable[[Any, np.ndarray], float]:
    """Gives `validate(variables, videos)`: mean class accuracy of five positions x centre crop."""
    mesh = make_mesh(experiment.mesh)
    step = jitted_forward(create_model(experiment.model), mesh)

    def validate(variables, videos):
        batches = _batches(experiment, shards, videos, mesh, _POSITIONS, crops=1)
        scores = clip_scores(variables, step, batches, mesh)
        labels = np.array([shards.videos[video].label for video in scores])
        counts = metrics.confusion(np.stack(list(scores.values())), labels)
        return metrics.mean_class_accuracy(counts)

    return validate


def evaluate(experiment: Experiment, shards: Shards, workdir: str | Path) -> Path:
    """Scores the test part of the split and writes the report, in the first process.

    The checkpoint is the run's best where clips were held out to tell it, else the latest.

    Returns:
      the report's folder, `evaluation/<positions>x<crops>-<split>`.

    Raises:
      ValueError: the workdir holds no checkpoint, one of another model or data set, or, without
        `evaluation.force`, one that was trained on clips of this test part.
    """
    workdir = Path(workdir)
    check_workdir(workdir, run_record(experiment, shards), free=("data.split", "data.validation"))
    mesh = make_mesh()
    trained = load_trained(experiment, workdir, mesh)
    settings, split = experiment.evaluation, experiment.data.split
    videos = shards.select(split, "test")
    known = trained_on(trained.history, shards.videos, videos)
    if known and not settings.force:
        splits = ", ".join(sorted({f"{s.dataset} {s.split}" for s in trained.history.seen}))
        raise ValueError(
            f"{workdir}: was trained on {len(known)} of the {len(videos)} test clips of {split!r}, "
            f"such as {known[0]}; evaluate what it was not trained on (it has seen {splits}), or "
            "set --config.evaluation.force=True"
        )
    batches = _batches(experiment, shards, videos, mesh, settings.positions, settings.crops)
    step = jitted_forward(create_model(experiment.model), mesh)
    total = len(videos) * settings.positions * settings.crops
    with progress_bar(total, f"views of {len(videos)} clips") as show:
        scores = clip_scores(trained.variables, step, batches, mesh, show)
    folder = workdir / "evaluation" / f"{settings.positions}x{settings.crops}-{split}"
    observations = observe(experiment, shards, trained.variables, np.array(list(scores)), mesh)
    if jax.process_index() == 0:
        checkpoint = {"step": trained.step, "seen": len(known)}
        _report(experiment, shards, folder, scores, checkpoint, observations, read_curves(workdir))
    return folder


def _batches(experiment, shards, videos, mesh, positions, crops):
    """This process's part of the views of some videos."""
    return eval_batches(
        shards,
        videos,
        experiment.input,
        positions,
        crops,
        round_up(experiment.evaluation.batch_size, mesh),
        jax.process_index(),
        jax.process_count(),
        parts=mesh.size // jax.process_count(),
    )


def _report(experiment, shards, folder, scores, checkpoint, observations, curves) -> None:
    settings, clips = experiment.evaluation, [shards.videos[video] for video in scores]
    write_report(
        folder,
        np.stack(list(scores.values())),
        np.array([clip.label for clip in clips]),
        [clip.name for clip in clips],
        shards.classes,
        {
            "protocol": f"{settings.positions} positions x {settings.crops} crops",
            "crop": experiment.input.crop,
            "test_scale": 1.0 if settings.crops == 3 else experiment.input.test_scale,
            "test_tau": experiment.input.test_tau,
            "motion": experiment.model.motion,
            "dataset": shards.name,
            "digest": shards.digest,
            "split": experiment.data.split,
            "step": checkpoint["step"],
            "clips_trained_on": checkpoint["seen"],
        },
        observations,
        curves,
    )
