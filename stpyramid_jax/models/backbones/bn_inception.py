"""BN-Inception (Ioffe and Szegedy 2015, arXiv 1502.03167), laid out as Cadene's and TSN's.

As in `bninception.py` of Cadene's pretrained-models.pytorch and TSN's `bn_inception` in Caffe:
convolutions have biases although norms follow, pools are in ceil mode, average pools count their
padding, and the pool of 5b takes the maximum.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from stpyramid_jax.models.backbones.layers import ceil_max_pool, conv_norm, max_pool

# Widths: 1x1; 3x3 and its reduction; double 3x3 and its reduction; projection of the pool.
# A block without the first and the last halves the map.
BLOCKS = {
    "3a": (64, (64, 64), (64, 96), 32),
    "3b": (64, (64, 96), (64, 96), 64),
    "3c": (None, (128, 160), (64, 96), None),
    "4a": (224, (64, 96), (96, 128), 128),
    "4b": (192, (96, 128), (96, 128), 128),
    "4c": (160, (128, 160), (128, 160), 128),
    "4d": (96, (128, 192), (160, 192), 128),
    "4e": (None, (128, 192), (192, 256), None),
    "5a": (352, (192, 320), (160, 224), 128),
    "5b": (352, (192, 320), (192, 224), 128),
}


class Inception(nn.Module):
    """1x1, 3x3, double 3x3 and pooling side by side, each layer with norm and ReLU."""

    one: int | None
    three: tuple[int, int]
    double: tuple[int, int]
    projection: int | None
    max_pool: bool
    running: bool
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w D"]:
        def layer(x, name, *shape):
            return nn.relu(conv_norm(x, f"_{name}", *shape, running=self.running, dtype=self.dtype))

        stride = 2 if self.one is None else 1
        three = layer(x, "3x3_reduce", self.three[0], 1)
        three = layer(three, "3x3", self.three[1], 3, stride)
        double = layer(x, "double_3x3_reduce", self.double[0], 1)
        double = layer(double, "double_3x3_1", self.double[1], 3)
        double = layer(double, "double_3x3_2", self.double[1], 3, stride)
        if self.one is None:
            # Windows start at every second position. Of an even side this is ceil mode; of an odd
            # one ceil mode has a position less than the convolutions beside it.
            pooled = max_pool(x, 3, 0, 2)
            return jnp.concatenate([three, double, pooled], axis=-1)
        one = layer(x, "1x1", self.one, 1)
        pool = nn.max_pool if self.max_pool else nn.avg_pool
        pooled = pool(x, (3, 3), padding=((1, 1), (1, 1)))
        pooled = layer(pooled, "pool_proj", self.projection, 1)
        return jnp.concatenate([one, three, double, pooled], axis=-1)


class BNInception(nn.Module):
    """[N, H, W, C] -> the map of inception_5b, [N, h, w, 1024]; 7 x 7 at 224.

    The map is empty below 7 pixels a side. For the fields see `BACKBONES`.
    """

    num_classes: int | None = None
    partial_bn: bool = False
    dtype: DTypeLike | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], train: bool = False) -> Float[Array, "N ..."]:
        block = nn.remat(Inception) if self.remat else Inception
        running = not train or self.partial_bn
        x = nn.relu(conv_norm(x, "1", 64, 7, 2, running=not train, dtype=self.dtype))
        x = ceil_max_pool(x)
        x = nn.relu(conv_norm(x, "2_reduce", 64, 1, running=running, dtype=self.dtype))
        x = nn.relu(conv_norm(x, "2", 192, 3, running=running, dtype=self.dtype))
        x = ceil_max_pool(x)
        for name, widths in BLOCKS.items():
            x = block(
                *widths,
                max_pool=name == "5b",
                running=running,
                dtype=self.dtype,
                name=f"inception_{name}",
            )(x)
        if self.num_classes is None:
            return x
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x.mean((1, 2)))
