"""VGG-16 (Simonyan and Zisserman 2015, arXiv 1409.1556), laid out as torchvision's."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from stpyramid_jax.models.backbones.layers import Conv, conv_norm, max_pool

# (width, convolutions) of each stage.
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class VGG(nn.Module):
    """[N, H, W, C] -> the map of conv5_3 after its ReLU, [N, H // 16, W // 16, 512].

    The map is empty below 16 pixels a side; the class scores need 32. `batch_norm` puts a norm
    behind each convolution. For the other fields see `BACKBONES`.
    """

    batch_norm: bool = False
    num_classes: int | None = None
    partial_bn: bool = False
    dtype: DTypeLike | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], train: bool = False) -> Float[Array, "N ..."]:
        stage = VGG._stage
        if self.remat:
            stage = nn.remat(stage, static_argnums=(2, 3))
        for number in range(1, 6):
            x = max_pool(x, 2, 0, 0) if number > 1 else x
            x = stage(self, x, number, train)
        if self.num_classes is None:
            return x
        x = adaptive_average_pool(max_pool(x, 2, 0, 0), 7)
        x = x.reshape(x.shape[0], -1)
        for name in ("fc6", "fc7"):
            x = nn.relu(nn.Dense(4096, dtype=self.dtype, name=name)(x))
            x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc8")(x)

    def _stage(self, x, number, train):
        width, count = STAGES[number - 1]
        for index in range(1, count + 1):
            suffix = f"{number}_{index}"
            if self.batch_norm:
                running = not train or (self.partial_bn and suffix != "1_1")
                x = conv_norm(x, suffix, width, running=running, dtype=self.dtype)
            else:
                x = Conv(width, dtype=self.dtype, name=f"conv{suffix}")(x)
            x = nn.relu(x)
        return x


def adaptive_average_pool(x: Float[Array, "N H W C"], side: int) -> Float[Array, "N side side C"]:
    """Means over `side` x `side` windows that cover the map: i from floor(iH/s) to ceil((i+1)H/s).

    As PyTorch's `AdaptiveAvgPool2d`.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        if size != side:
            bounds = [(i * size // side, -(-(i + 1) * size // side)) for i in range(side)]
            windows = [x.take(np.arange(*pair), axis).mean(axis) for pair in bounds]
            x = jnp.stack(windows, axis)
    return x
