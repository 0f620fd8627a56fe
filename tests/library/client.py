"""A program that uses the package with types; pyright finds nothing in it."""

from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

import stpyramid_jax
from stpyramid_jax import (
    Choices,
    ModelConfig,
    Shards,
    Sketch,
    attention_pool,
    build_experiment,
    count_sketch,
    create_model,
    default_config,
    evaluate,
    make_sketches,
    named_model,
    predict,
    prepare,
    signed_sqrt_l2,
    stcb,
    train,
    tvl1,
)
from stpyramid_jax.models.backbones import BACKBONES
from stpyramid_jax.models.pyramid import Outputs


def fuse(first: jax.Array, second: jax.Array) -> jax.Array:
    sketches: tuple[Sketch, ...] = make_sketches(jax.random.key(0), (4, 4), output_dim=8)
    alone: jax.Array = count_sketch(first, sketches[0])
    return signed_sqrt_l2(alone + stcb([first, second], sketches))


def pooled(features: jax.Array, scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    return attention_pool(features, scores)


def motion(first: jax.Array, second: jax.Array) -> jax.Array:
    return tvl1(first, second, warps=2)


def answer(outputs: Outputs) -> tuple[jax.Array, jax.Array | None]:
    return outputs.logits, outputs.attention


def network(name: str) -> tuple[int, float]:
    model = create_model(ModelConfig(num_classes=3, **named_model(name)))
    return model.config.snippets, BACKBONES[model.config.backbone].units.mean[0]


def road(clips: Path, folder: Path) -> dict[str, float]:
    prepare(Choices("folder", clips, folder / "shards", size=(72, 72)))
    config = cast(dict[str, Any], default_config().to_dict())
    config["data"]["dir"] = str(folder / "shards")
    shards = Shards(folder / "shards")
    experiment = build_experiment(config, num_classes=len(shards.classes))
    state = train(experiment, shards, folder / "run")
    print(np.asarray(state.step), evaluate(experiment, shards, folder / "run").name)
    found = next(predict(folder / "run", str(clips)))
    return {**found.probabilities, stpyramid_jax.__version__: 1.0}
