"""A convolutional net of four layers, for small frames trained from scratch in minutes."""

import flax.linen as nn
from jaxtyping import Array, Float


class ConvNet(nn.Module):
    """[N, H, W, C] -> [N, H/8, W/8, 64]: 3x3 convolutions of stride 2, 2, 2, 1.

    Each is followed by batch normalisation, which lifts the few positions where something moves
    to the scale of the rest, and ReLU. A position of the map sees 31 x 31 pixels.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], train: bool = False) -> Float[Array, "N h w 64"]:
        layers = ((16, 2), (32, 2), (48, 2), (64, 1))
        for index, (features, stride) in enumerate(layers, start=1):
            x = nn.Conv(features, (3, 3), (stride, stride), use_bias=False, name=f"conv{index}")(x)
            norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm{index}")
            x = nn.relu(norm(x))
        return x
