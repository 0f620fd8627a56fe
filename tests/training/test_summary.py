"""What a run says of itself at its start."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stpyramid_jax.models.pyramid import ModelConfig, create_model, named_model
from stpyramid_jax.training import summary
from stpyramid_jax.training.optimizer import OptimizerConfig, frozen_norms, multipliers
from stpyramid_jax.training.sharding import MeshConfig, divided, make_mesh
from stpyramid_jax.training.state import example_inputs


def shapes_of(backbone, mesh):
    """Of model D, divided over the mesh."""
    config = ModelConfig(num_classes=101, **named_model("D"), backbone=backbone, partial_bn=True)
    model, inputs = create_model(config), example_inputs(config, 64)
    key = jax.random.key(0)
    params = jax.eval_shape(lambda: model.init(key, inputs, train=False))["params"]
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        params,
        divided(params, mesh),
    )


def rows_of(table):
    """Part -> column -> number."""
    header, *rows = table.splitlines()
    names = header.replace("MiB a device", "MiB/device").split()
    return {
        row.split()[0]: dict(
            zip(names[1:], (float(x.replace(",", "")) for x in row.split()[1:]), strict=True)
        )
        for row in rows
    }


@pytest.mark.parametrize("backbone", ["squeezenet", "resnet152"])
def test_the_table_of_a_network_adds_up_and_stays_small(backbone):
    params = shapes_of(backbone, make_mesh(MeshConfig(data=2, model=4)))
    rates, _ = multipliers(params, OptimizerConfig(learning_rate=0.1), partial_bn=True)
    table = summary.parameter_table(params, rates)
    assert max(map(len, table.splitlines())) <= 80
    rows = rows_of(table)
    assert list(rows) == [*params, "total"]
    for column in ("arrays", "divided", "parameters", "trained"):
        assert rows["total"][column] == sum(rows[part][column] for part in params)
    leaves = jax.tree.leaves(params)
    assert rows["total"]["parameters"] == sum(x.size for x in leaves)
    assert rows["total"]["MiB"] == pytest.approx(sum(4 * x.size for x in leaves) / 2**20, abs=0.06)
    frozen = frozen_norms(params)
    sizes = {
        "/" + "/".join(key.key for key in path): x.size
        for path, x in jax.tree_util.tree_leaves_with_path(params)
    }
    still = sum(sizes[path] for path in frozen)
    assert rows["total"]["parameters"] - rows["total"]["trained"] == still
    said = "\n".join(summary.frozen_lines(rates))
    assert (said == "frozen: nothing") == (not frozen)
    for part in ("spatial", "temporal"):
        count = sum(path.startswith(f"/{part}/") for path in frozen)
        assert not count or f"frozen: {count} of {int(rows[part]['arrays'])} arrays" in said


def test_the_table_says_what_each_device_holds():
    mesh = make_mesh(MeshConfig(data=2, model=4))
    params = {
        "head": {"kernel": jnp.ones((512, 1024)), "bias": jnp.ones(1024)},
        "scale": jnp.ones((3, 5), jnp.bfloat16),
    }
    params = jax.device_put(params, divided(params, mesh))
    rows = rows_of(summary.parameter_table(params, jax.tree.map(lambda _: 1.0, params)))
    held = {
        name: sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(part)) / 2**20
        for name, part in params.items()
    }
    assert rows["head"]["MiB/device"] == pytest.approx(held["head"], abs=0.06)
    assert rows["head"]["MiB"] == pytest.approx(2 + 4 / 1024, abs=0.06)
    assert (rows["head"]["divided"], rows["scale"]["divided"]) == (1, 0)
    assert (rows["scale"]["arrays"], rows["scale"]["parameters"]) == (1, 15)


def test_arrays_of_the_host_are_counted_whole():
    params = {"head": np.ones((1024, 256), np.float32)}
    row = rows_of(summary.parameter_table(params, {"head": 0.0}))["head"]
    assert (row["MiB"], row["MiB/device"], row["trained"], row["divided"]) == (1, 1, 0, 0)


def test_what_is_frozen_is_named_by_part_and_kind():
    norm = {"scale": 0.0, "bias": 0.0}
    rates = {
        "spatial": {"conv1": {"kernel": 1.0, "bias": 2.0}, "norm2": norm, "norm3": norm},
        "temporal": {"conv1": {"kernel": 0.0, "bias": 0.0}},
        "head": {"kernel": 1.0, "bias": 0.0},
    }
    assert summary.frozen_lines(rates) == [
        "frozen: 4 of 6 arrays of spatial (2 x norm bias, 2 x norm scale)",
        "frozen: all of temporal",
        "frozen: 1 of 2 arrays of head (1 x bias)",
    ]
    assert summary.frozen_lines({"head": {"bias": 1.0}}) == ["frozen: nothing"]


def test_lines_of_devices_data_and_batch():
    mesh = make_mesh(MeshConfig(data=4, model=2))
    assert summary.devices_line(mesh) == (
        "devices: 8 x cpu (cpu) of 1 process, mesh: data 4 x model 2"
    )
    assert summary.data_line("my clips é", "split1", 9537, 0, "0123456789abcdef") == (
        "data set: my clips é split1, 9537 clips to train on, digest 0123456789ab"
    )
    assert "100 clips to train on, 20 held out" in summary.data_line("x", "y", 100, 20, "0")
    assert summary.batch_line(128, 1, mesh) == (
        "batch: 128 samples an update, 16 at a time on each device"
    )
    assert summary.batch_line(128, 4, mesh) == (
        "batch: 128 samples an update in 4 micro-batches, 4 at a time on each device"
    )


def test_devices_of_several_processes_are_counted():
    devices = np.array(
        [
            types.SimpleNamespace(device_kind="TPU v4", platform="tpu", process_index=i // 4)
            for i in range(8)
        ]
    )
    mesh = types.SimpleNamespace(devices=devices, size=8, shape={"data": 8, "model": 1})
    assert "8 x TPU v4 (tpu) of 2 processes" in summary.devices_line(mesh)


def test_the_compiled_step_tells_its_memory():
    x = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
    compiled = jax.jit(lambda x: jnp.sin(x @ x) @ x, donate_argnums=0).lower(x).compile()
    memory = compiled.memory_analysis()
    assert summary.step_line(2.5e12, compiled, 33.4) == (
        "step: 2,500.0 GFLOP, compiled in 33 s, memory of a device: 4 MiB of state and batch, "
        f"{memory.temp_size_in_bytes / 2**20:,.0f} MiB while it runs"
    )
    silent = types.SimpleNamespace(memory_analysis=lambda: None)
    assert summary.step_line(1e9, silent, 1.0) == "step: 1.0 GFLOP, compiled in 1 s"
