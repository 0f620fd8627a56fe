"""SqueezeNet 1.1 (Iandola et al. 2016), up to its last fire module.

Layer names, SAME padding and VALID pooling follow the public ImageNet arrays `<layer>/kernel` and
`<layer>/bias` that `models/pretrained.py` loads.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class Fire(nn.Module):
    """1x1 squeeze, then 1x1 and 3x3 expansions side by side."""

    squeeze: int
    expand: int

    @nn.compact
    def __call__(self, x: Float[Array, "N h w C"]) -> Float[Array, "N h w D"]:
        x = nn.relu(nn.Conv(self.squeeze, (1, 1), name="squeeze1x1")(x))
        one = nn.relu(nn.Conv(self.expand, (1, 1), name="expand1x1")(x))
        three = nn.relu(nn.Conv(self.expand, (3, 3), name="expand3x3")(x))
        return jnp.concatenate([one, three], axis=-1)


class SqueezeNet(nn.Module):
    """[N, H, W, C] -> the map of fire9, [N, h, w, 512]; 13 x 13 at 224, 6 x 6 at 112."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "N H W C"], train: bool = False
    ) -> Float[Array, "N h w 512"]:
        def pool(x):
            return nn.max_pool(x, (3, 3), strides=(2, 2))

        x = pool(nn.relu(nn.Conv(64, (3, 3), strides=(2, 2), name="conv1")(x)))
        x = Fire(16, 64, name="fire2")(x)
        x = pool(Fire(16, 64, name="fire3")(x))
        x = Fire(32, 128, name="fire4")(x)
        x = pool(Fire(32, 128, name="fire5")(x))
        x = Fire(48, 192, name="fire6")(x)
        x = Fire(48, 192, name="fire7")(x)
        x = Fire(64, 256, name="fire8")(x)
        return Fire(64, 256, name="fire9")(x)
