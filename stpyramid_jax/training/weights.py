"""Weights into the streams of a fresh run and out of those of a trained one."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stpyramid_jax.experiment import load_experiment
from stpyramid_jax.models.pretrained import (
    INPUTS,
    Weights,
    init_streams,
    load_weights,
    save_weights,
    weights_of,
    weights_per_stream,
)
from stpyramid_jax.models.pyramid import ModelConfig
from stpyramid_jax.progress import say
from stpyramid_jax.training.checkpoint import load_trained
from stpyramid_jax.training.history import Seen
from stpyramid_jax.training.optimizer import frozen_norms
from stpyramid_jax.training.sharding import make_mesh
from stpyramid_jax.training.state import TrainState


def read_weights(spec: str, config: ModelConfig) -> tuple[dict[str, Weights], tuple[Seen, ...]]:
    """Weights by stream of `training.weights`, and the clips that runs among them have seen.

    A source is a workdir, a file or a known name.

    Raises:
      ValueError: a source cannot be read or is of another backbone, or a run lacks the stream or
        trained it on what this model cannot take.
    """
    used = {"spatial": config.uses_rgb, "temporal": config.uses_flow}
    sources = weights_per_stream(spec, tuple(name for name, uses in used.items() if uses))
    weights: dict[str, Weights] = {}
    seen: dict[Seen, None] = {}
    for stream, source in sources.items():
        if Path(source).is_dir():
            weights[stream], clips = stream_of_run(Path(source), stream, config)
            seen |= dict.fromkeys(clips)
        else:
            weights[stream] = load_weights(source, config.backbone)
    return weights, tuple(seen)


def check_frozen(config: ModelConfig, params: Mapping[str, Any], given: Collection[str]) -> None:
    """Refuses to freeze batch normalisation that has no statistics yet.

    Raises:
      ValueError: a stream has norms to freeze and starts from scratch.
    """
    fresh = set(INPUTS) & set(params) - set(given)
    frozen = [stream for stream in sorted(fresh) if frozen_norms({stream: params[stream]})]
    if config.partial_bn and frozen:
        raise ValueError(
            f"model.partial_bn=True freezes the batch normalisation of {' and '.join(frozen)}, "
            "which starts from scratch; give training.weights, or set "
            "--config.model.partial_bn=False"
        )


def stream_of_run(
    workdir: Path, stream: str, config: ModelConfig
) -> tuple[Weights, tuple[Seen, ...]]:
    """A stream as an earlier run left it, whatever else that run trained, and what it has seen.

    Raises:
      ValueError: the folder holds no checkpoint, or one of another backbone, without the stream, or
        of a flow stream that saw fields where this one sees differences, or the other way round.
    """
    experiment, _ = load_experiment(workdir)
    given = experiment.model
    if given.backbone != config.backbone:
        raise ValueError(
            f"weights {workdir}: of {given.backbone}; the model's backbone is {config.backbone}"
        )
    trained = load_trained(experiment, workdir, make_mesh())
    variables, seen = stream_variables(trained.variables, stream), trained.history.seen
    if "params" not in variables:
        other = {"spatial": "temporal", "temporal": "spatial"}[stream]
        raise ValueError(
            f"weights {workdir}: that run has no {stream} stream; use it as "
            f"training.weights='{other}={workdir}'"
        )
    weights = weights_of(variables, str(workdir))
    if stream == "spatial" or given.motion == config.motion:
        return weights, seen
    there = f"its temporal stream was trained on {given.motion}"
    if "rgb_difference" in (given.motion, config.motion):
        raise ValueError(f"weights {workdir}: {there}; the model's motion is {config.motion}")
    return weights._replace(notes=(f"{there}, now it sees {config.motion}",)), seen


def stream_variables(variables: Mapping[str, Any], stream: str) -> dict[str, Any]:
    """The variables of one stream's backbone, by collection, with the units of its input."""
    names = {"params": stream, "batch_stats": stream, "units": INPUTS[stream]}
    return {
        collection: variables[collection][name]
        for collection, name in names.items()
        if name in variables.get(collection, {})
    }


def with_weights(state: TrainState, weights: Mapping[str, Weights]) -> TrainState:
    """The state with weights in its streams, and lines that say what went where."""
    variables = jax.tree.map(np.asarray, state.variables)
    variables, report = init_streams(variables, weights)
    for line in report:
        say(f"weights: {line}")
    params = variables.pop("params")
    placed = jax.tree.map(
        lambda new, old: jax.device_put(new, old.sharding),
        (params, variables),
        (state.params, state.collections),
    )
    return state.replace(params=placed[0], collections=placed[1])


def export_weights(workdir: Path) -> list[Path]:
    """Writes each stream of a run as `weights/<stream>.safetensors`, in PyTorch's names.

    Raises:
      ValueError: there is no checkpoint, or the backbone is no network of torchvision or Cadene.
    """
    experiment, _ = load_experiment(workdir)
    variables = load_trained(experiment, workdir, make_mesh()).variables
    paths = []
    for stream in set(INPUTS) & set(variables["params"]):
        path = workdir / "weights" / f"{stream}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_weights(path, stream_variables(variables, stream), experiment.model.backbone)
        paths.append(path)
    return sorted(paths)
