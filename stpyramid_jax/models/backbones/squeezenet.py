"""SqueezeNet 1.1 (Iandola et al. 2016, arXiv 1602.07360), laid out as torchvision's.

Its first convolution has no padding and its pools are in ceil mode. Arrays that were published
for a first convolution with SAME padding and pools without any fit it: at 112 and 224 pixels a
side the two are the same function, since what SAME pads is then seen by no pool.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from stpyramid_jax.models.backbones.layers import Conv, ceil_max_pool


class Fire(nn.Module):
    """1x1 squeeze, then 1x1 and 3x3 expansions side by side."""

    squeeze: int
    expand: int
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Float[Array, "N h w C"]) -> Float[Array, "N h w D"]:
        x = nn.relu(Conv(self.squeeze, 1, dtype=self.dtype, name="squeeze1x1")(x))
        one = nn.relu(Conv(self.expand, 1, dtype=self.dtype, name="expand1x1")(x))
        three = nn.relu(Conv(self.expand, 3, dtype=self.dtype, name="expand3x3")(x))
        return jnp.concatenate([one, three], axis=-1)


class SqueezeNet(nn.Module):
    """[N, H, W, C] -> the map of fire9, [N, h, w, 512]; 13 x 13 at 224, 6 x 6 at 112.

    The map is empty below 17 pixels a side. There are no norms, so `partial_bn` changes nothing.
    For the fields see `BACKBONES`.
    """

    num_classes: int | None = None
    partial_bn: bool = False
    dtype: DTypeLike | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], train: bool = False) -> Float[Array, "N ..."]:
        fire = nn.remat(Fire) if self.remat else Fire
        x = Conv(64, 3, 2, padding=0, dtype=self.dtype, name="conv1")(x)
        x = ceil_max_pool(nn.relu(x))
        x = fire(16, 64, self.dtype, name="fire2")(x)
        x = ceil_max_pool(fire(16, 64, self.dtype, name="fire3")(x))
        x = fire(32, 128, self.dtype, name="fire4")(x)
        x = ceil_max_pool(fire(32, 128, self.dtype, name="fire5")(x))
        x = fire(48, 192, self.dtype, name="fire6")(x)
        x = fire(48, 192, self.dtype, name="fire7")(x)
        x = fire(64, 256, self.dtype, name="fire8")(x)
        x = fire(64, 256, self.dtype, name="fire9")(x)
        if self.num_classes is None:
            return x
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = nn.relu(Conv(self.num_classes, 1, dtype=self.dtype, name="conv10")(x))
        return x.mean((1, 2))
