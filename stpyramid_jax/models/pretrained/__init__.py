"""Weights in and out: from files that the field has to the streams of a pyramid, and back.

`load_weights` reads a file (`formats`) or a public one by its name (`public`) and translates it
(`translation`, by the descriptions of `names`). `init_streams` puts weights into the streams by
rules over parameter paths. `save_weights` writes a stream for PyTorch.
"""

from stpyramid_jax.models.pretrained.export import save_weights
from stpyramid_jax.models.pretrained.public import PUBLIC
from stpyramid_jax.models.pretrained.streams import INPUTS, init_streams, weights_per_stream
from stpyramid_jax.models.pretrained.weights import Weights, load_weights, weights_of

__all__ = [
    "INPUTS",
    "PUBLIC",
    "Weights",
    "init_streams",
    "load_weights",
    "save_weights",
    "weights_of",
    "weights_per_stream",
]
