"""What a model sees in each clip and makes of it, at one view: features, attention, pictures."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from stpyramid_jax.colour import flow_colour, heat
from stpyramid_jax.experiment import Experiment
from stpyramid_jax.input.pipeline import apart, eval_batches
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.models.pyramid import Outputs, Pyramid, create_model
from stpyramid_jax.performance import compiler_options
from stpyramid_jax.preparation.sources.flow import dequantise
from stpyramid_jax.progress import progress_bar
from stpyramid_jax.training.sharding import replicated, round_up, shard_batch

_LEAST = 1.0  # pixels: below it noise would be shown in full colour

Pictures = Mapping[str, UInt8[np.ndarray, "h w 3"]]
"""RGB pictures of a clip by name: `frame`, `motion`, `attention`; those that the model has."""


@dataclasses.dataclass(frozen=True)
class Observations:
    """Of N clips, each at the middle of the clip and of the frame.

    Attributes:
      scores: class scores of this one view, before the softmax.
      features: as `Outputs.features`, less those that say the same as another.
      attention: weights that sum to one over positions, or None without attention.
      look: gives the pictures of clip i; they are read when asked for, so that a large test part
        is not held in memory.
    """

    scores: Float[np.ndarray, "N K"]
    features: Mapping[str, Float[np.ndarray, "N _"]]
    attention: Float[np.ndarray, "N h w"] | None
    look: Callable[[int], Pictures]


def observe(
    experiment: Experiment,
    shards: Shards,
    variables: Any,
    videos: Int[np.ndarray, " N"],
    mesh: jax.sharding.Mesh,
) -> Observations:
    """Looks at each video once; all processes must call it, and all get the same.

    Args:
      variables: of the trained model.
      mesh: the devices that share the work.
    """
    config, model = experiment.input, create_model(experiment.model)
    step = jax.jit(
        functools.partial(_forward, model=model),
        out_shardings=replicated(mesh),
        compiler_options=compiler_options(),
    )
    size = round_up(min(experiment.evaluation.batch_size, len(videos)), mesh)
    batches = eval_batches(
        shards, videos, config, 1, 1, size, jax.process_index(), jax.process_count()
    )
    whole = _observed(functools.partial(step, variables), batches, videos, mesh)
    attention = whole.get("attention")
    features = {name: x.astype(np.float32) for name, x in whole["features"].items()}
    if experiment.model.snippets == 1:  # nothing is fused: what follows level 1 is the stream
        features.pop("motion", None)
    one = dataclasses.replace(config, threads=1)

    def look(clip: int) -> Pictures:
        (batch,) = eval_batches(shards, videos[clip : clip + 1], one, 1, 1, 1)
        images = {name: array[0] for name, array in apart(batch).items() if name in config.inputs}
        bound = shards.parameters["flow"].get("bound")
        return pictures(images, None if attention is None else attention[clip], bound)

    return Observations(whole["scores"], features, attention, look)


def _observed(
    step: Callable[[Mapping[str, Array]], dict[str, Any]],
    batches: Iterable[Mapping[str, np.ndarray]],
    videos: Int[np.ndarray, " N"],
    mesh: jax.sharding.Mesh,
) -> dict[str, Any]:
    """What `_forward` gives of each video, in the order of the videos."""
    parts = []
    with progress_bar(len(videos), "clips observed") as show:
        for batch in batches:
            with jax.set_mesh(mesh):
                rows = jax.device_get(step(shard_batch(apart(batch), mesh)))
            mask = rows.pop("mask")
            parts.append(jax.tree.map(lambda x, mask=mask: x[mask], rows))
            show(sum(len(part["scores"]) for part in parts))
    whole = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    places = {video: place for place, video in enumerate(whole.pop("video").tolist())}
    order = [places[video] for video in videos.tolist()]
    return jax.tree.map(lambda x: x[order], whole)


def pictures(
    images: Mapping[str, UInt8[np.ndarray, "..."]],
    attention: Float[np.ndarray, "h w"] | None,
    bound: float | None,
) -> Pictures:
    """A view as people see it.

    `motion` is that of the middle snippet: its mean flow in colour, full at its 99th percentile (at
    least 1 pixel), or the difference of its two middle frames around grey.

    Args:
      images: of one view, by the names of `InputConfig.inputs`.
      bound: pixels of displacement that the largest byte of flow stands for.
    """
    found: dict[str, UInt8[np.ndarray, "h w 3"]] = {}
    if "rgb" in images:
        found["frame"] = images["rgb"]
    if "flow" in images:
        snippet = images["flow"][len(images["flow"]) // 2]
        fields = np.stack([snippet[..., axis::2] for axis in (0, 1)], axis=2)  # [h, w, 2, L]
        flow = dequantise(fields, cast(float, bound)).mean(axis=-1)
        largest = np.percentile(np.linalg.norm(flow, axis=-1), 99)
        found["motion"] = flow_colour(flow, max(float(largest), _LEAST))
    if "frames" in images:
        snippet = images["frames"][len(images["frames"]) // 2].astype(np.float32)
        middle = (len(snippet) - 1) // 2
        difference = snippet[middle + 1] - snippet[middle]
        found["motion"] = (127.5 + difference / 2).astype(np.uint8)
    if attention is not None:
        found["attention"] = heat(images["rgb"], attention)
    return found


def _forward(variables: Any, batch: Mapping[str, Array], *, model: Pyramid) -> dict[str, Any]:
    outputs = cast(Outputs, model.apply(variables, batch, train=False))
    about = {name: batch[name] for name in ("video", "mask")}
    found = {"scores": outputs.logits, "features": outputs.features, **about}
    return found if outputs.attention is None else found | {"attention": outputs.attention}
