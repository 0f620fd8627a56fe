"""ResNet-18 to 152 (He et al. 2016, arXiv 1512.03385), laid out as torchvision's.

That is version 1.5: a bottleneck has its stride in the 3x3 convolution, not in the first 1x1.
"""

import functools

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from stpyramid_jax.models.backbones.layers import Conv, conv_norm, max_pool, norm

# Blocks in each of the four stages; from 50 layers on they are bottlenecks.
BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class Block(nn.Module):
    """relu(x + f(x)): f is 3x3, 3x3, or as a bottleneck 1x1, 3x3, 1x1 to four times the width.

    Where f changes the shape, x goes through a 1x1 convolution of the same stride.
    """

    width: int
    stride: int
    bottleneck: bool
    running: bool
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w D"]:
        layer = functools.partial(conv_norm, running=self.running, dtype=self.dtype, use_bias=False)
        if self.bottleneck:
            y = nn.relu(layer(x, "1", self.width, 1))
            y = nn.relu(layer(y, "2", self.width, 3, self.stride))
            y = layer(y, "3", 4 * self.width, 1)
        else:
            y = nn.relu(layer(x, "1", self.width, 3, self.stride))
            y = layer(y, "2", self.width, 3)
        if x.shape != y.shape:
            conv = Conv(
                y.shape[-1],
                1,
                self.stride,
                use_bias=False,
                dtype=self.dtype,
                name="downsample_conv",
            )
            x = norm(self.running, self.dtype, "norm_downsample")(conv(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """[N, H, W, C] -> the map of the last block, [N, ceil(H/32), ceil(W/32), D].

    D is 512 at depth 18 and 34, else 2048. No input is too small. For the other fields see
    `BACKBONES`.
    """

    depth: int
    num_classes: int | None = None
    partial_bn: bool = False
    dtype: DTypeLike | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], train: bool = False) -> Float[Array, "N ..."]:
        block = nn.remat(Block) if self.remat else Block
        running = not train or self.partial_bn
        x = conv_norm(x, "1", 64, 7, 2, running=not train, dtype=self.dtype, use_bias=False)
        x = max_pool(nn.relu(x), 3, 1, 1)
        for stage, count in enumerate(BLOCKS[self.depth]):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                name = f"layer{stage + 1}_{index}"
                width = 64 * 2**stage
                x = block(width, stride, self.depth >= 50, running, self.dtype, name=name)(x)
        if self.num_classes is None:
            return x
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x.mean((1, 2)))
