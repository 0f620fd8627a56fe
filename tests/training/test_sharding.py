"""Meshes, and what is divided over them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from stpyramid_jax.models.fusion import STCB
from stpyramid_jax.training.sharding import MeshConfig, divided, make_mesh, round_up, shard_batch


def test_the_rest_of_the_devices_goes_where_minus_one_stands():
    assert dict(make_mesh().shape) == {"data": 8, "model": 1}
    assert dict(make_mesh(MeshConfig(model=4)).shape) == {"data": 2, "model": 4}
    assert dict(make_mesh(MeshConfig(data=2, model=-1)).shape) == {"data": 2, "model": 4}
    assert round_up(9, make_mesh(MeshConfig(model=4))) == 16


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((-1, 3), "mesh.data=-1 x mesh.model=3: there are 8 devices"),
        ((3, -1), "there are 8 devices"),
        ((2, 2), "there are 8 devices"),
        ((-1, 16), "there are 8 devices"),
        ((0, 1), "mesh.data=0: at least 1, or -1"),
        ((-1, -1), "only one can be the rest"),
    ],
)
def test_impossible_meshes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(MeshConfig(*sizes))


def test_arrays_are_divided_along_their_largest_axis_that_can_be():
    shapes = {
        "kernel": (3, 3, 12, 16),
        "odd": (3, 3, 12, 18),
        "none": (3, 5),
        "tall": (512, 6),
        "bias": (1024,),
        "count": (),
    }
    specs = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    found = divided(specs, make_mesh(MeshConfig(model=4)))
    assert {name: sharding.spec for name, sharding in found.items()} == {
        "kernel": PartitionSpec(None, None, None, "model"),
        "odd": PartitionSpec(None, None, "model"),
        "none": PartitionSpec(),
        "tall": PartitionSpec("model"),
        "bias": PartitionSpec(),
        "count": PartitionSpec(),
    }
    whole = divided(specs, make_mesh())
    assert {sharding.spec for sharding in whole.values()} == {PartitionSpec()}


def test_each_device_has_its_rows_of_the_batch_in_order():
    batch = {"label": np.arange(16)}
    array = shard_batch(batch, make_mesh(MeshConfig(model=2)))["label"]
    rows = {shard.device.id: shard.data.tolist() for shard in array.addressable_shards}
    assert rows == {i: [2 * i, 2 * i + 1] for i in range(8)}


@pytest.mark.parametrize("model", [1, 4])
def test_transforms_are_divided_over_the_mesh(model):
    """XLA leaves them whole, on every device; then a mesh would make the fusion no faster."""
    mesh = make_mesh(MeshConfig(model=model))
    fuse = STCB(output_dim=64, seed=0, level=1)
    maps = [jax.random.normal(jax.random.key(i), (16, 3, 5, 24)) for i in range(2)]
    variables = fuse.init(jax.random.key(0), maps)

    def loss(maps):
        return (fuse.apply(variables, maps) ** 3).sum()

    alone = jax.grad(loss)(maps)
    sharded = shard_batch({str(i): np.asarray(x) for i, x in enumerate(maps)}, mesh)
    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(loss))
        program = step.lower(list(sharded.values())).compile().as_text()
        together = step(list(sharded.values()))
    rows = {int(np.prod([int(n) for n in shape.split(",")[:-1]])) for shape in _ffts(program)}
    assert rows == {2 * 3 * 5}  # of 16 x 3 x 5 on 8 devices
    assert "all-gather" not in program
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def _ffts(program):
    """Shapes of the results of all transforms in a compiled program."""
    shapes = re.findall(r"= (?:c64|f32)\[([\d,]+)\]\S* fft\(", program)
    assert shapes
    return shapes


def test_a_batch_that_does_not_divide_is_fused_by_every_device():
    fuse = STCB(output_dim=8, seed=0, level=1)
    x = [jnp.ones((3, 4)), jnp.ones((3, 4))]
    variables = fuse.init(jax.random.key(0), x)
    with jax.set_mesh(make_mesh()):
        np.testing.assert_allclose(
            jax.jit(fuse.apply)(variables, x), fuse.apply(variables, x), atol=1e-6
        )
