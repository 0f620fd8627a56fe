"""A trained run as it is applied to videos: its network, compiled, and what its data set was."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Array, Float

from stpyramid_jax.evaluation.protocol import Forward, clip_scores, jitted_forward
from stpyramid_jax.evaluation.scores import probabilities
from stpyramid_jax.evaluation.timeline import Look
from stpyramid_jax.evaluation.videos import Clip
from stpyramid_jax.experiment import Experiment
from stpyramid_jax.input.pipeline import eval_batches
from stpyramid_jax.models.pyramid import Outputs, Pyramid, create_model
from stpyramid_jax.performance import compiler_options
from stpyramid_jax.progress import say
from stpyramid_jax.training.checkpoint import load_trained
from stpyramid_jax.training.sharding import make_mesh, replicated, round_up, shard_batch


@dataclass(frozen=True)
class Run:
    """A trained network with what it must know of its data set, and its compiled forms.

    Attributes:
      classes: their names, in the order of the network's scores.
      size: (width, height) of the data set's frames.
      method: of the data set's flow, as `flow_fields` knows it.
      step: of the checkpoint.
      forward: gives class scores of the views of a clip.
      look: gives class probabilities and attention of single views.
    """

    experiment: Experiment
    classes: Sequence[str]
    size: tuple[int, int]
    method: str
    variables: Any
    step: int
    mesh: jax.sharding.Mesh
    forward: Forward
    look: Look


def load_run(workdir: Path, experiment: Experiment, dataset: Mapping[str, Any]) -> Run:
    """The trained run of a workdir, of what its `config.json` holds.

    Raises:
      ValueError: there is none.
    """
    mesh = make_mesh()
    trained = load_trained(experiment, workdir, mesh)
    method = dataset["flow"]
    if method == "images" and "flow" in experiment.input.inputs:
        method = "tvl1"
        say("flow: the data set's was given as images; of a video it is computed by tvl1")
    model = create_model(experiment.model)
    return Run(
        experiment,
        dataset["classes"],
        (dataset["size"][0], dataset["size"][1]),
        method,
        trained.variables,
        trained.step,
        mesh,
        jitted_forward(model, mesh),
        looker(model, trained.variables, mesh),
    )


def looker(model: Pyramid, variables: Any, mesh: jax.sharding.Mesh) -> Look:
    """The network as `moments` asks it, compiled for one shape of images."""

    @functools.partial(jax.jit, out_shardings=replicated(mesh), compiler_options=compiler_options())
    def forward(variables, images: Mapping[str, Array]):
        outputs = cast(Outputs, model.apply(variables, images, train=False))
        return jax.nn.softmax(outputs.logits), outputs.attention

    def look(images):
        with jax.set_mesh(mesh):
            return jax.device_get(forward(variables, shard_batch(images, mesh)))

    return look


def clip_probabilities(run: Run, clip: Clip) -> Float[np.ndarray, " K"]:
    """Probabilities of the classes, by the views of the run's evaluation."""
    settings, config = run.experiment.evaluation, run.experiment.input
    total = settings.positions * settings.crops
    views = round_up(min(settings.batch_size, total), run.mesh)
    batches = eval_batches(
        clip,
        np.zeros(1, np.int64),
        config,
        settings.positions,
        settings.crops,
        views,
        parts=run.mesh.size,
        # Whatever a video's views share, one shape serves all: half of the room beyond one each.
        snippets=views // run.mesh.size * (config.snippets + 1) // 2,
    )
    return probabilities(clip_scores(run.variables, run.forward, batches, run.mesh)[0])
