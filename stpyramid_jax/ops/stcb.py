"""Spatiotemporal compact bilinear fusion: the outer product of any features, sketched.

The count sketch of an outer product is the circular convolution of the factors' count sketches
(Pham and Pagh, KDD 2013), so the p_1 x ... x p_m products are never formed:

    stcb(x_1, ..., x_m) = irfft( rfft(sketch_1(x_1)) * ... * rfft(sketch_m(x_m)) )

which is Algorithm 1 of the Spatiotemporal Pyramid Network (Wang et al., CVPR 2017).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("hash", "sign"), meta_fields=("output_dim",)
)
@dataclasses.dataclass(frozen=True)
class Sketch:
    """The fixed random map of one input: feature j goes to bin `hash[j]` with `sign[j]`."""

    hash: Int[Array, " p"]
    sign: Float[Array, " p"]
    output_dim: int


def make_sketches(
    key: PRNGKeyArray, input_dims: Sequence[int], output_dim: int
) -> tuple[Sketch, ...]:
    """Draws one independent sketch per input.

    Hashes are uniform on the `output_dim` bins and signs uniform on {-1, +1}. The draws must be
    independent: one sketch shared by all inputs biases the estimate of the inner product.

    Args:
      key: a key of `jax.random`; equal keys give equal sketches.
      input_dims: p_i, the number of features of each input.
      output_dim: d, the length of the fused feature.

    Raises:
      ValueError: there is no input, or a dimension is less than 1.
    """
    if not input_dims or min(*input_dims, output_dim) < 1:
        raise ValueError(
            f"make_sketches: input_dims={tuple(input_dims)}, output_dim={output_dim}: "
            "give at least one input, and dimensions of 1 or more"
        )

    def draw(key: PRNGKeyArray, dim: int) -> Sketch:
        hash_key, sign_key = jax.random.split(key)
        return Sketch(
            hash=jax.random.randint(hash_key, (dim,), 0, output_dim),
            sign=jax.random.rademacher(sign_key, (dim,), jnp.float32),
            output_dim=output_dim,
        )

    return tuple(map(draw, jax.random.split(key, len(input_dims)), input_dims))


def count_sketch(x: Float[Array, "*batch p"], sketch: Sketch) -> Float[Array, "*batch d"]:
    """Projects p features onto d bins: `y[b] = sum over {j: hash[j] = b} of sign[j] x[j]`.

    Inner products are kept in expectation over sketches: E <sketch(x), sketch(y)> = <x, y>
    (Charikar, Chen, Farach-Colton 2002). Sums run in float32 at least; the dtype of `x` is kept.

    Raises:
      ValueError: `x` is not floating or its last axis is not the sketch's input.
    """
    return _apply(lambda bins: bins, x, sketch).astype(x.dtype)


def _apply(
    transform: Callable[[Array], Array], x: Float[Array, "*batch p"], sketch: Sketch
) -> Shaped[Array, "*batch f"]:
    """A transform of the last axis of the sketch, which is left in float32 at least.

    The sketch takes one of two forms, whichever the backend is built for: CPUs add each feature to
    its bin, accelerators multiply with the p x d matrix of signs (docs/stcb.md has the figures).
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"count_sketch: dtype {x.dtype}: give floating features")
    (dim,) = sketch.hash.shape
    if x.ndim < 1 or x.shape[-1] != dim:
        raise ValueError(
            f"count_sketch: features of shape {x.shape} do not end in {dim}, the sketch's input"
        )
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # Scattered bins have no sharding of their own, which an explicit mesh asks for.
    explicit = any(axis is not None for axis in jax.typeof(x).sharding.spec)
    if explicit or jax.default_backend() != "cpu":
        return transform(_multiply(x, sketch))
    # As rows through the transform: XLA transposes well what is not reshaped in the same breath.
    rows = transform(_scatter(x.reshape(-1, dim), sketch))
    return rows.reshape(*x.shape[:-1], rows.shape[-1])


def _scatter(x: Float[Array, "n p"], sketch: Sketch) -> Float[Array, "n d"]:
    """Adds features to bins, features leading: then each is a run of memory, for all rows."""
    signed = jax.lax.optimization_barrier(x * _aligned(sketch.sign.astype(x.dtype), 2))
    bins = jnp.zeros((sketch.output_dim, x.shape[0]), x.dtype).at[sketch.hash].add(signed.T)
    return bins.T


def _multiply(x: Float[Array, "*batch p"], sketch: Sketch) -> Float[Array, "*batch d"]:
    """Multiplies with the p x d matrix that has each feature's sign in its bin's column."""
    matrix = jax.nn.one_hot(sketch.hash, sketch.output_dim, dtype=x.dtype)
    return jnp.matmul(x, matrix * sketch.sign.astype(x.dtype)[:, None], precision="highest")


def _aligned(x: Array, rank: int) -> Array:
    """A vector with leading axes of one, to broadcast against an array of a rank."""
    return jax.lax.expand_dims(x, range(rank - x.ndim))


def stcb(
    features: Sequence[Float[Array, "..."]], sketches: Sequence[Sketch]
) -> Float[Array, "*batch d"]:
    """Fuses features of any number of inputs into their compact bilinear product.

    In expectation over sketches <stcb(x), stcb(y)> = prod_i <x_i, y_i>. Leading axes broadcast in
    the frequency domain: a vector [B, 1, 1, p] against a map [B, H, W, p] costs B transforms, not
    B*H*W. Transforms run in float32 at least (a product of three spectra exceeds float16), and the
    promoted dtype of the inputs is kept.

    Args:
      features: x_i of shape [..., p_i].
      sketches: of `make_sketches`, one per input. Independent hashes make the order of the inputs
        part of the function.

    Returns:
      [..., d], its leading axes those of all inputs, broadcast.

    Raises:
      ValueError: numbers of inputs, features or bins disagree, leading axes do not broadcast, or
        features are not floating.

    >>> sketches = make_sketches(jax.random.key(0), (512, 512), 1024)
    >>> stcb([jnp.ones((8, 1, 1, 512)), jnp.ones((8, 7, 7, 512))], sketches).shape
    (8, 7, 7, 1024)
    """
    if not features or len(features) != len(sketches):
        raise ValueError(
            f"stcb: {len(features)} features for {len(sketches)} sketches: give one sketch each"
        )
    output_dims = {sketch.output_dim for sketch in sketches}
    if len(output_dims) != 1:
        raise ValueError(f"stcb: sketches of different output_dim {sorted(output_dims)}")
    (output_dim,) = output_dims
    # Raises where the leading axes do not broadcast, before anything is computed.
    rank = len(jnp.broadcast_shapes(*(x.shape[:-1] for x in features))) + 1

    spectra = []
    for x, sketch in zip(features, sketches, strict=True):
        spectrum = _apply(jnp.fft.rfft, x, sketch)
        spectra.append(_aligned(spectrum, rank))
    product = functools.reduce(jnp.multiply, spectra)
    return jnp.fft.irfft(product, n=output_dim).astype(jnp.result_type(*features))


def signed_sqrt_l2(
    x: Float[Array, "..."], axis: int = -1, epsilon: float = 1e-8
) -> Float[Array, "..."]:
    """Signed square root, then unit L2 norm along `axis`; the usual step after bilinear features.

    `y = x / sqrt(|x| + epsilon)`, `z = y / sqrt(sum y^2 + epsilon)`: the limits of
    sign(x) sqrt(|x|) and y / |y| with a finite gradient everywhere, zero included
    (Lin, RoyChowdhury, Maji, ICCV 2015, without their infinite slope at 0).
    """
    # Both slopes at 0 must fit the dtype of the gradient: 128 each in float16.
    epsilon = max(epsilon, float(jnp.finfo(x.dtype).smallest_normal))
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    y = wide * jax.lax.rsqrt(jnp.abs(wide) + epsilon)
    z = y * jax.lax.rsqrt(jnp.sum(y * y, axis=axis, keepdims=True) + epsilon)
    return z.astype(x.dtype)
