"""The backbones by name. Each maps images [N, H, W, C] of any C to its last map [N, h, w, D].

A backbone is a module of this folder and a line of `BACKBONES`.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from stpyramid_jax.models.backbones.convnet import ConvNet
from stpyramid_jax.models.backbones.squeezenet import SqueezeNet


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A backbone with the units its weights expect: `(bytes - mean) * scale`.

    `mean` is in the channel order of the network's input, `channels` says which of RGB each is.
    """

    module: type[nn.Module]
    mean: tuple[float, float, float]
    scale: float
    channels: tuple[int, int, int]

    def normalize_rgb(self, rgb: Num[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
        """RGB bytes 0..255 to the backbone's units."""
        ordered = jnp.stack([rgb[..., c] for c in self.channels], axis=-1).astype(jnp.float32)
        return (ordered - jnp.broadcast_to(jnp.array(self.mean), ordered.shape)) * self.scale

    def normalize_flow(self, flow: Num[Array, "*batch C"]) -> Float[Array, "*batch C"]:
        """Flow bytes 0..255 to the same units, so that a mirrored field is the exact negative.

        The quantisation puts zero displacement at 127.5, rounded to 128; TSN subtracts 128.
        """
        return (flow.astype(jnp.float32) - 127.5) * self.scale


BACKBONES = {
    # Means of the ImageNet weights: BGR 103.939, 116.779, 123.68.
    "squeezenet": Backbone(SqueezeNet, (103.939, 116.779, 123.68), 1.0, (2, 1, 0)),
    "convnet": Backbone(ConvNet, (127.5, 127.5, 127.5), 1 / 64, (0, 1, 2)),
}
