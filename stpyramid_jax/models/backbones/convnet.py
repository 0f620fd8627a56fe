"""A convolutional net of four layers, for small frames trained from scratch in minutes."""

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from stpyramid_jax.models.backbones.layers import conv_norm

_LAYERS = ((16, 2), (32, 2), (48, 2), (64, 1))  # width and stride


class ConvNet(nn.Module):
    """[N, H, W, C] -> [N, ceil(H/8), ceil(W/8), 64]: 3x3 convolutions of stride 2, 2, 2, 1.

    Each is followed by batch normalisation, which lifts the few positions where something moves
    to the scale of the rest, and ReLU. A position of the map sees 31 x 31 pixels. No input is too
    small. Its fields are those of the other backbones, see `BACKBONES`; it has no head.
    """

    partial_bn: bool = False
    dtype: DTypeLike | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], train: bool = False) -> Float[Array, "N h w 64"]:
        layer = ConvNet._layer
        if self.remat:
            layer = nn.remat(layer, static_argnums=(2, 3, 4, 5))
        for index, (features, stride) in enumerate(_LAYERS, start=1):
            running = not train or (self.partial_bn and index > 1)
            x = layer(self, x, index, features, stride, running)
        return x

    def _layer(self, x, index, features, stride, running):
        # Kernels of variance 1 / fan-in: a norm follows each, so their scale decides nothing.
        x = conv_norm(
            x,
            str(index),
            features,
            stride=stride,
            running=running,
            dtype=self.dtype,
            padding="SAME",
            use_bias=False,
            kernel_init=nn.initializers.lecun_normal(),
        )
        return nn.relu(x)
