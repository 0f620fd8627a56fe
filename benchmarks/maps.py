"""Last maps of both streams, computed once for all that is trained above them, and kept."""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float16, Int

from stpyramid_jax.experiment import Experiment
from stpyramid_jax.input.pipeline import apart, eval_batches, train_iterator
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.models.pretrained import Weights
from stpyramid_jax.models.pyramid import ModelConfig, create_model
from stpyramid_jax.performance import compiler_options
from stpyramid_jax.progress import progress_bar
from stpyramid_jax.training.history import History, trained_on
from stpyramid_jax.training.state import init_state
from stpyramid_jax.training.weights import read_weights, with_weights

DRAWS, POSITIONS, SNIPPETS, BATCH = 12, 6, 3, 32
STREAMS = (("spatial",), ("temporal",))


class Maps(NamedTuple):
    """Last maps of both streams for N samples, and the clip that each is of."""

    rgb: Float16[np.ndarray, "N h w C"]
    flow: Float16[np.ndarray, "N T h w C"]
    video: Int[np.ndarray, " N"]

    def of(self, videos: Int[np.ndarray, " V"]) -> Int[np.ndarray, " n"]:
        """Numbers of the samples of some clips."""
        return np.flatnonzero(np.isin(self.video, videos))

    def batch(self, rows: Int[np.ndarray, " B"], config: ModelConfig) -> dict[str, np.ndarray]:
        """What a network takes of some samples; of a single snippet, the one in the middle."""
        first = (SNIPPETS - config.snippets) // 2
        snippets = slice(first, first + config.snippets)
        return {
            name: self.rgb[rows] if name == "rgb" else self.flow[rows, snippets]
            for name in config.layouts
        }


def maps_of(experiment: Experiment, shards: Shards, folder: Path) -> tuple[Maps, Maps]:
    """Maps of the split's training and test clips, computed unless the folder has them.

    Raises:
      ValueError: the folder has those of other streams, clips or crops.
    """
    split, settings = experiment.data.split, experiment.input
    train, test = (shards.select(split, part) for part in ("train", "test"))
    weights, _ = read_weights(experiment.training.weights, experiment.model)
    about = {
        "digest": shards.digest,
        "split": split,
        "weights": {stream: _digest(given) for stream, given in weights.items()},
        "input": json.loads(json.dumps(dataclasses.asdict(settings))),
        "samples": [DRAWS, POSITIONS],
    }
    record = folder / "about.json"
    if not record.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        network = _streams(experiment, weights)
        drawn = train_iterator(shards, train, settings, BATCH, experiment.seed)
        with contextlib.closing(drawn):
            _save(_collect(network, drawn, DRAWS * len(train)), folder, "train")
        views = map(apart, eval_batches(shards, test, settings, POSITIONS, 1, BATCH))
        _save(_collect(network, views, POSITIONS * len(test)), folder, "test")
        record.write_text(json.dumps(about, indent=2) + "\n")
    if json.loads(record.read_text()) != about:
        raise ValueError(f"--maps={folder}: those of other clips, streams or crops; give another")
    return _load(folder, "train"), _load(folder, "test")


def check_unseen(experiment: Experiment, shards: Shards, clips: Int[np.ndarray, " V"]) -> None:
    """Refuses streams that were trained on clips that are to be scored."""
    _, seen = read_weights(experiment.training.weights, experiment.model)
    if known := trained_on(History(seen=seen), shards.videos, clips):
        raise ValueError(
            f"--weights={experiment.training.weights}: trained on {len(known)} of the {len(clips)} "
            f"clips to score, such as {known[0]}; give streams of this split and --validation"
        )


def _digest(weights: Weights) -> str:
    """Of the arrays and their names: a run that goes on in its folder has other streams."""
    found = hashlib.sha256()
    for name in sorted(weights.arrays):
        found.update(name.encode() + np.ascontiguousarray(weights.arrays[name]).tobytes())
    return found.hexdigest()


def _save(maps: Maps, folder: Path, name: str) -> None:
    for field, array in maps._asdict().items():
        np.save(folder / f"{name}-{field}.npy", array)


def _load(folder: Path, name: str) -> Maps:
    return Maps(*(np.load(folder / f"{name}-{field}.npy") for field in Maps._fields))


def _streams(experiment: Experiment, weights: Mapping[str, Weights]):
    """A function of a batch that gives the last maps of both streams."""
    model = create_model(experiment.model)
    state = jax.jit(functools.partial(init_state, experiment))(jax.random.key(experiment.seed))
    variables = with_weights(state, weights).variables

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def forward(variables, images):
        _, kept = model.apply(
            variables,
            images,
            train=False,
            mutable=["intermediates"],
            capture_intermediates=lambda module, _: module.path in STREAMS,
        )
        found: Any = kept["intermediates"]
        rgb, flow = (found[name]["__call__"][0].astype(jnp.float16) for (name,) in STREAMS)
        return rgb, flow.reshape(-1, SNIPPETS, *flow.shape[1:])

    return functools.partial(forward, variables)


def _collect(network, batches: Iterable[Mapping[str, np.ndarray]], count: int) -> Maps:
    parts, done = [], 0
    with progress_bar(count, "samples through the streams") as show:
        for batch in batches:
            found = (*network({name: batch[name] for name in ("rgb", "flow")}), batch["video"])
            kept = batch.get("mask", np.arange(len(batch["video"])) < count - done)
            parts.append([np.asarray(array)[kept] for array in found])
            done += int(kept.sum())
            show(done)
            if done == count:
                break
    return Maps(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
