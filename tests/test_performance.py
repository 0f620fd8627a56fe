"""How much arithmetic a program is, and what the machine could do."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from stpyramid_jax.models.pyramid import ModelConfig, create_model, named_model
from stpyramid_jax.performance import device_memory, peak_flops, step_flops
from stpyramid_jax.training.state import example_inputs

NUMBERS = ("NHWC", "HWIO", "NHWC")
# (image, kernel, arguments)
CONVOLUTIONS = {
    "same": ((2, 9, 8, 3), (3, 3, 3, 5), {"padding": "SAME"}),
    "strided": ((2, 9, 8, 3), (3, 2, 3, 5), {"padding": "SAME", "window_strides": (2, 3)}),
    "valid": ((1, 7, 7, 2), (7, 7, 2, 4), {"padding": "VALID"}),
    "one to one": ((3, 5, 5, 8), (1, 1, 8, 2), {"padding": "VALID", "window_strides": (2, 2)}),
    "far out": ((1, 3, 3, 1), (2, 2, 1, 1), {"padding": ((5, 0), (0, 4))}),
    "cropped": ((1, 9, 9, 1), (3, 3, 1, 2), {"padding": ((-2, 0), (-1, -3))}),
    "dilated kernel": ((1, 9, 9, 2), (3, 3, 2, 2), {"padding": "SAME", "rhs_dilation": (2, 3)}),
    "dilated image": (
        (1, 4, 5, 2),
        (3, 3, 2, 2),
        {"padding": ((1, 2), (0, -1)), "lhs_dilation": (2, 3)},
    ),
    "groups": ((2, 6, 6, 4), (3, 3, 2, 6), {"padding": "SAME", "feature_group_count": 2}),
    "batch groups": ((4, 6, 6, 3), (3, 3, 3, 6), {"padding": "SAME", "batch_group_count": 2}),
}


def flops(function, *arguments):
    return step_flops(jax.jit(function).trace(*arguments).jaxpr)


def convolution(image, kernel, window_strides=(1, 1), **options):
    return jax.lax.conv_general_dilated(
        image, kernel, window_strides, dimension_numbers=NUMBERS, **options
    )


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_of_ones_counts_its_own_products(name):
    image, kernel, options = CONVOLUTIONS[name]
    ones = jnp.ones(image), jnp.ones(kernel)
    products = float(convolution(*ones, **options).sum())
    assert flops(lambda x, w: convolution(x, w, **options), *ones) == 2 * products
    assert products > 0


@pytest.mark.parametrize("name", ["same", "strided", "one to one", "groups", "dilated kernel"])
def test_each_gradient_of_a_convolution_costs_what_it_does(name):
    image, kernel, options = CONVOLUTIONS[name]
    ones = jnp.ones(image), jnp.ones(kernel)
    forward = flops(lambda x, w: convolution(x, w, **options), *ones)
    for argument in (0, 1):
        gradient = jax.grad(lambda x, w: convolution(x, w, **options).sum(), argument)
        assert flops(gradient, *ones) == 2 * forward  # one forward, one back


def test_a_product_of_matrices():
    a, b = jnp.ones((3, 5, 7)), jnp.ones((3, 7, 11))
    assert flops(jnp.matmul, a, b) == 2 * 3 * 5 * 7 * 11
    assert flops(lambda a: jnp.einsum("bij,bij->b", a, a), a) == 2 * 3 * 5 * 7
    assert flops(lambda a: jnp.sin(a) + 1, a) == 0


def test_loops_count_every_turn_and_branches_the_longest():
    x, w = jnp.ones((8, 16)), jnp.ones((16, 16))
    once = flops(jnp.matmul, x, w)

    def loop(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, length=5)[0]

    def branch(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

    assert flops(loop, x, w) == 5 * once
    assert flops(branch, x, w) == 2 * once
    # The compiler's count of the loop is the reason why ours is taken.
    assert jax.jit(loop).lower(x, w).cost_analysis()["flops"] < 2 * once


def test_micro_batches_cost_what_the_batch_does():
    image, kernel = jnp.ones((8, 6, 6, 3)), jnp.ones((3, 3, 3, 4))

    def loss(w, x):
        return (convolution(x, w, padding="SAME") ** 2).sum()

    def accumulated(w, x):
        def add(total, part):
            return total + jax.grad(loss)(w, part), None

        return jax.lax.scan(add, jnp.zeros_like(w), x.reshape(4, 2, *x.shape[1:]))[0]

    assert flops(accumulated, kernel, image) == flops(jax.grad(loss), kernel, image) > 0


def test_what_is_computed_again_counts():
    x, w = jnp.ones((8, 16)), jnp.ones((16, 16))

    def loss(w):
        return jnp.sin(jnp.sin(x @ w) @ w).sum()

    assert flops(jax.grad(jax.checkpoint(loss)), w) > flops(jax.grad(loss), w)


def test_a_mesh_shares_the_work_and_does_not_change_it():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    rows = PartitionSpec(("data", "model"))
    x, w = jnp.ones((16, 32)), jnp.ones((32, 8))
    expected = 2 * 16 * 32 * 8
    divided = jax.device_put(x, NamedSharding(mesh, rows))
    assert flops(jnp.matmul, divided, w) == expected
    compiled = jax.jit(jnp.matmul).lower(divided, w).compile()
    assert compiled.cost_analysis()["flops"] == expected / 8  # one device's part
    mapped = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows)
    assert flops(mapped, x, w) == expected
    with jax.set_mesh(mesh):
        mapped = jax.shard_map(jnp.matmul, in_specs=(rows, PartitionSpec()), out_specs=rows)
        assert flops(mapped, x, w) == expected


@pytest.mark.parametrize("model", ["A", "D"])
def test_a_network_and_its_gradient_agree_with_the_compiler(model):
    """XLA counts activations and transforms too, and the loop over the lines of D's maps once."""
    config = ModelConfig(num_classes=10, **named_model(model), backbone="squeezenet")
    network, inputs = create_model(config), example_inputs(config, 64)
    key = jax.random.key(0)
    variables = jax.eval_shape(lambda: network.init(key, inputs, train=False))

    def loss(params, rest):
        return network.apply({"params": params, **rest}, inputs, train=False).logits.sum()

    rest = {name: value for name, value in variables.items() if name != "params"}
    traced = jax.jit(jax.value_and_grad(loss)).trace(variables["params"], rest)
    ours, theirs = step_flops(traced.jaxpr), traced.lower().cost_analysis()["flops"]
    assert 0.95 < ours / theirs < 1.05


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5e", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("TPU v6e", 918),
        ("TPU7x", 1153.5),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA B200", 2250),
        ("NVIDIA L4", 121),
        ("Tesla T4", 65),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla V100-PCIE-32GB", 112),
        # What is like a known device, but is not one.
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA H200 MIG 1g.18gb", None),
        ("NVIDIA L40S", None),
        ("TPU v4 lite", None),
        ("cpu", None),
        ("", None),
    ],
)
def test_the_peak_of_a_device_is_known_or_none(kind, teraflops):
    peak = peak_flops(types.SimpleNamespace(device_kind=kind))
    assert peak == (None if teraflops is None else teraflops * 1e12)


def test_no_peak_and_no_memory_are_invented_for_a_cpu():
    assert peak_flops(jax.devices()[0]) is None
    assert device_memory() == {}


def test_memory_is_that_of_the_fullest_device(monkeypatch):
    @dataclasses.dataclass
    class Device:
        stats: dict | None

        def memory_stats(self):
            return self.stats

    devices = [
        Device({"bytes_in_use": 5, "peak_bytes_in_use": 7}),
        Device({"bytes_in_use": 3, "peak_bytes_in_use": 9}),
        Device({"bytes_in_use": 4}),
        Device(None),
    ]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert device_memory() == {"in_use": 5, "peak": 9}
