"""What the backbones share: convolution, batch normalisation and a pooling.

Padding is as in Caffe and PyTorch, alike on all four sides, so that weights trained there see here
what they saw there. SAME padding differs from it at stride 2.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def convolve(
    x: Float[Array, "N H W C"], kernel: Float[Array, "k k C D"], stride: int, padding: int | str
) -> Float[Array, "N h w D"]:
    """2-D convolution; `padding` zeros on each side, or `"SAME"`."""
    pads = padding if isinstance(padding, str) else [(padding, padding)] * 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class Conv(nn.Module):
    """A convolution with parameters `kernel` [size, size, C, features] and `bias` [features].

    Attributes:
      features: channels of the output.
      size: side of the kernel.
      stride: step between positions.
      padding: zeros on each side, or `"SAME"`; None keeps the size at stride 1.
      use_bias: adds a bias; needless before a norm, which has one.
      kernel_init: variance 2 / fan-in by default, since ReLU passes half of its input's second
        moment: so the scale neither dies nor explodes with depth (He et al. 2015,
        arXiv 1502.01852).
      dtype: of the computation; None takes that of input and parameters. Parameters are float32.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: int | str | None = None
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w D"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        padding = self.size // 2 if self.padding is None else self.padding
        x = convolve(x, kernel, self.stride, padding)
        return x if bias is None else x + bias[None, None, None, :]


def norm(running: bool, dtype: DTypeLike | None, name: str) -> nn.BatchNorm:
    """Batch normalisation, by running averages or by the batch's statistics.

    An update moves `mean` and `var` a tenth of the way to the batch's. The variance is the batch's
    own (sum over n), as it normalises; PyTorch and Caffe store it times n / (n - 1). Statistics and
    normalisation are computed in float32, whatever `dtype` is.
    """
    return nn.BatchNorm(
        use_running_average=running, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name
    )


def conv_norm(
    x: Float[Array, "N H W C"],
    suffix: str,
    features: int,
    size: int = 3,
    stride: int = 1,
    *,
    running: bool,
    dtype: DTypeLike | None,
    **conv,
) -> Float[Array, "N h w D"]:
    """The layers `conv<suffix>` and `norm<suffix>` of the calling module; `conv` is `Conv`'s."""
    x = Conv(features, size, stride, dtype=dtype, name=f"conv{suffix}", **conv)(x)
    return norm(running, dtype, f"norm{suffix}")(x)


def max_pool(x: Float[Array, "N H W C"], size: int, low: int, high: int) -> Float[Array, "N h w C"]:
    """Maximum over size x size at stride 2, of an image with so many -inf before and behind it.

    floor((n + low + high - size) / 2) + 1 positions a side. Of equal values the first has the
    gradient, as in PyTorch and Caffe. XLA's own pooling takes several times as long backward on CPU
    (docs/benchmarks.md): there it is done one axis after the other, as maxima of shifted slices.
    """
    if jax.default_backend() != "cpu":
        return nn.max_pool(x, (size, size), (2, 2), ((low, high), (low, high)))
    x = jnp.pad(x, [(0, 0), (low, high), (low, high), (0, 0)], constant_values=-jnp.inf)
    for axis in (2, 1):
        positions = max(0, (x.shape[axis] - size) // 2 + 1)
        starts = range(size) if positions else [0]
        shifted = [
            lax.slice_in_dim(x, start, max(0, start + 2 * positions - 1), 2, axis)
            for start in starts
        ]
        x = functools.reduce(_first_maximum, shifted)
    return x


def _first_maximum(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """The larger of two, or what is no number."""
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


def ceil_max_pool(x: Float[Array, "N H W C"]) -> Float[Array, "N h w C"]:
    """Maximum over 3 x 3 at stride 2, in "ceil mode": ceil((n - 3) / 2) + 1 positions a side.

    Of an even side the last window hangs one over the edge; of an odd one none does.
    """
    return max_pool(x, 3, 0, 1)
