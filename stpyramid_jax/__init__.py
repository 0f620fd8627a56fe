"""Spatiotemporal Pyramid Network for video action recognition, in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

from stpyramid_jax.extras import extra
from stpyramid_jax.models.pyramid import ModelConfig, create_model, named_model
from stpyramid_jax.ops.attention import attention_pool
from stpyramid_jax.ops.stcb import Sketch, count_sketch, make_sketches, signed_sqrt_l2, stcb
from stpyramid_jax.ops.tvl1 import tvl1

__version__ = "0.1.0"

# What needs no extra; `import *` brings this alone.
__all__ = [
    "ModelConfig",
    "Sketch",
    "attention_pool",
    "count_sketch",
    "create_model",
    "make_sketches",
    "named_model",
    "signed_sqrt_l2",
    "stcb",
    "tvl1",
]

# What does, by its module and the extras; imported when it is asked for, since that takes seconds.
_WITH_EXTRAS = {
    "Choices": ("preparation.choices", "prepare"),
    "Shards": ("input.tfrecord", "train"),
    "build_experiment": ("experiment", "train"),
    "default_config": ("experiment", "train"),
    "evaluate": ("evaluation.protocol", "train"),
    "predict": ("evaluation.predict", "train,prepare"),
    "prepare": ("preparation.run", "prepare"),
    "train": ("training.loop", "train"),
}

if TYPE_CHECKING:
    from stpyramid_jax.evaluation.predict import predict as predict
    from stpyramid_jax.evaluation.protocol import evaluate as evaluate
    from stpyramid_jax.experiment import build_experiment as build_experiment
    from stpyramid_jax.experiment import default_config as default_config
    from stpyramid_jax.input.tfrecord import Shards as Shards
    from stpyramid_jax.preparation.choices import Choices as Choices
    from stpyramid_jax.preparation.run import prepare as prepare
    from stpyramid_jax.training.loop import train as train
else:  # a type checker would take any name for one of the package

    def __getattr__(name: str) -> Any:
        if name not in _WITH_EXTRAS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, extras = _WITH_EXTRAS[name]
        with extra(extras):
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)

    def __dir__() -> list[str]:
        return sorted([*globals(), *_WITH_EXTRAS])
