"""Flax modules over the pure functions of `ops`: compact bilinear fusion and attention."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float, PyTree

from stpyramid_jax.ops.stcb import Sketch, make_sketches, signed_sqrt_l2, stcb


class STCB(nn.Module):
    """`stcb` with its sketches in the collection `sketch`, where no optimizer reaches them.

    The sketches are drawn from `seed` and `level`, not from the stream of the parameters: every
    host and every run draws the same ones, layers of equal size draw different ones, and a
    checkpoint carries them. Under a mesh (`jax.set_mesh`) each device fuses its part of the batch.
    """

    output_dim: int
    seed: int
    level: int

    @nn.compact
    def __call__(self, features: Sequence[Float[Array, "..."]]) -> Float[Array, "*batch d"]:
        input_dims = tuple(x.shape[-1] for x in features)

        def draw():
            key = jax.random.fold_in(jax.random.key(self.seed), self.level)
            drawn = make_sketches(key, input_dims, self.output_dim)
            return tuple({"hash": sketch.hash, "sign": sketch.sign} for sketch in drawn)

        arrays = self.variable("sketch", "inputs", draw).value
        sketches = tuple(Sketch(a["hash"], a["sign"], self.output_dim) for a in arrays)
        return _by_device(stcb, features[0].shape[0])(tuple(features), sketches)


def _by_device(fuse: Callable[..., Array], batch: int) -> Callable[..., Array]:
    """`fuse` for each device's rows alone: XLA would have every device transform those of all."""
    mesh = jax.sharding.get_abstract_mesh()
    automatic = all(kind == AxisType.Auto for kind in mesh.axis_types)
    if mesh.empty or mesh.size == 1 or not automatic or batch % mesh.size:
        return fuse
    rows = PartitionSpec(mesh.axis_names)
    return jax.shard_map(fuse, in_specs=(rows, PartitionSpec()), out_specs=rows)


def unit_rms(x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    """Signed square root and L2 norm, scaled by sqrt(d) to a root mean square of one.

    Without the factor the entries are about 1/sqrt(d), and a layer on top does not learn at the
    field's usual rates.
    """
    return signed_sqrt_l2(x) * jnp.sqrt(jnp.array(x.shape[-1], x.dtype))


class Attention(nn.Module):
    """Scores of where to look, from guidance: conv 1x1, ReLU, conv 1x1.

    The hidden width of 64 is from third-party notes of the paper, its shape from the slides.
    """

    hidden: int = 64

    @nn.compact
    def __call__(self, guidance: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        scores = nn.relu(nn.Dense(self.hidden, name="hidden")(guidance))
        return nn.Dense(1, name="score")(scores)[..., 0]


def over_lines(
    level: Callable[..., PyTree[Float[Array, "B h w ..."]]],
    module: nn.Module,
    *maps: Float[Array, "B ?h ?w ?C"],
) -> PyTree[Float[Array, "B h w ..."]]:
    """`level(module, *maps)` for a level that treats each position of its maps alone.

    Nothing but the maps is kept for the backward pass, which computes the level again: its
    sketches and spectra are several times larger. On CPU it runs line by line, so that those of a
    line stay in the cache (docs/stcb.md). A map of one line goes with every line of the others.
    """
    if jax.default_backend() != "cpu":
        return nn.remat(level)(module, *maps)
    lines = max(x.shape[1] for x in maps)
    scan = nn.scan(
        nn.remat(lambda module, _, maps: ((), level(module, *maps)), prevent_cse=False),
        variable_broadcast=("params", "sketch"),
        split_rngs={"params": False},
        in_axes=(tuple(1 if x.shape[1] == lines else nn.broadcast for x in maps),),
        out_axes=1,
    )
    maps = tuple(x if x.shape[1] == lines else x[:, 0] for x in maps)
    return scan(module, (), maps)[1]
