"""Spatiotemporal Pyramid Network for video action recognition, in JAX."""

from stpyramid_jax.models.pyramid import ModelConfig, create_model
from stpyramid_jax.ops.attention import attention_pool
from stpyramid_jax.ops.stcb import Sketch, count_sketch, make_sketches, signed_sqrt_l2, stcb
from stpyramid_jax.ops.tvl1 import tvl1

__version__ = "0.1.0"

__all__ = [
    "ModelConfig",
    "Sketch",
    "attention_pool",
    "count_sketch",
    "create_model",
    "make_sketches",
    "signed_sqrt_l2",
    "stcb",
    "tvl1",
]
