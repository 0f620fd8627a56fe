"""The solver against its own formula in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stpyramid_jax.models.backbones import BACKBONES
from stpyramid_jax.training.optimizer import OptimizerConfig, make_optimizer, multipliers, schedule


def test_updates_equal_caffes_solver_written_out():
    """Clip, weight decay on weights alone, the rate (biases twice), then momentum over it."""
    config = OptimizerConfig(
        learning_rate=0.1,
        boundaries=(2,),
        momentum=0.9,
        weight_decay=0.01,
        clip_norm=1.0,
        backbone_multiplier=0.5,
    )
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    params = {
        "head": {"kernel": draw(3, 2), "bias": draw(2)},
        "spatial": {"conv1": {"kernel": draw(2, 2), "bias": draw(2)}},
    }
    rates = {"head": (1.0, 2.0), "spatial": (0.5, 1.0)}
    optimizer = make_optimizer(config)
    state = optimizer.init(params)
    ours, theirs = jax.tree.map(jnp.asarray, params), jax.tree.map(np.copy, params)
    momenta = jax.tree.map(np.zeros_like, params)
    for step in range(4):
        gradients = jax.tree.map(lambda x: draw(*x.shape), params)
        updates, state = optimizer.update(jax.tree.map(jnp.asarray, gradients), state, ours)
        ours = optax.apply_updates(ours, updates)

        norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradients)))
        rate = 0.1 if step < 2 else 0.01
        for part, (kernel_rate, bias_rate) in rates.items():
            layer, g, v = theirs[part], gradients[part], momenta[part]
            if part == "spatial":
                layer, g, v = layer["conv1"], g["conv1"], v["conv1"]
            for name, factor, decay in (("kernel", kernel_rate, 0.01), ("bias", bias_rate, 0.0)):
                pull = g[name] / max(1, norm) + decay * layer[name]
                v[name] = 0.9 * v[name] + rate * factor * pull
                layer[name] = layer[name] - v[name]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), ours, theirs)


def test_batch_normalisation_learns_at_the_common_rate_and_does_not_decay():
    params = {"spatial": {"norm1": {"scale": np.zeros(1), "bias": np.zeros(1)}}}
    rates, decays = multipliers(params, OptimizerConfig(learning_rate=1.0))
    assert rates["spatial"]["norm1"] == {"scale": 1.0, "bias": 1.0}
    assert decays["spatial"]["norm1"] == {"scale": 0.0, "bias": 0.0}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_parameter_of_every_backbone_has_a_rule(backbone):
    """With partial batch norm the first norm of a stream learns and all other norms do not."""
    network = BACKBONES[backbone].module()
    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 64, 64, 3)))["params"]
    solver = OptimizerConfig(learning_rate=1.0)
    for partial_bn in (False, True):
        rates, decays = multipliers({"spatial": shapes}, solver, partial_bn)
        flat = {
            "/".join(key.key for key in path): pair
            for path, pair in jax.tree_util.tree_leaves_with_path(
                jax.tree.map(lambda *pair: pair, rates["spatial"], decays["spatial"]),
                is_leaf=lambda x: type(x) is tuple,
            )
        }
        for path, (rate, decay) in flat.items():
            layer, name = path.split("/")[-2:]
            norm = layer.startswith("norm")
            assert decay == (1 if name == "kernel" else 0), path
            if norm and partial_bn:
                assert rate == (path.split("/")[0] in ("norm1", "norm1_1")), path
            else:
                assert rate == (2 if name == "bias" and not norm else 1), path


def test_what_is_frozen_has_no_part_in_clipping():
    params = {"spatial": {f"norm{k}": {"scale": np.ones(1, np.float32)} for k in (1, 2)}}
    solver = OptimizerConfig(learning_rate=1.0, clip_norm=1.0)
    optimizer = make_optimizer(solver, partial_bn=True)
    gradients = jax.tree.map(lambda x: 100 * x, params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    assert updates["spatial"] == {"norm1": {"scale": -1.0}, "norm2": {"scale": 0.0}}


def test_schedule_warms_up_and_drops():
    rate = schedule(OptimizerConfig(learning_rate=1.0, boundaries=(10, 20), warmup=4))
    values = [float(rate(step)) for step in (0, 1, 3, 9, 10, 19, 20)]
    np.testing.assert_allclose(values, [0.25, 0.5, 1, 1, 0.1, 0.1, 0.01], rtol=1e-6)


def test_a_parameter_without_a_rule_is_an_error():
    with pytest.raises(ValueError, match="/head/temperature: no rule"):
        multipliers({"head": {"temperature": np.zeros(1)}}, OptimizerConfig(learning_rate=1.0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": 0.0}, r"optimizer.learning_rate=0.0: greater than 0"),
        ({"learning_rate": 1.0, "clip_norm": -1.0}, r"optimizer.clip_norm=-1.0"),
        ({"learning_rate": 1.0, "boundaries": (5, 3)}, r"optimizer.boundaries=\(5, 3\)"),
        ({"learning_rate": 1.0, "momentum": 1.0}, r"optimizer.momentum=1.0"),
        ({"learning_rate": 1.0, "warmup": -3}, r"optimizer.warmup=-3"),
        ({"learning_rate": float("nan")}, r"optimizer.learning_rate=nan"),
    ],
)
def test_impossible_solvers_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**fields)
