"""The solver against its own formula in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stpyramid_jax.models.backbones import BACKBONES
from stpyramid_jax.training.optimizer import OptimizerConfig, make_optimizer, multipliers, schedule

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def layer():
    return {"kernel": draw(3, 2), "bias": draw(2)}


def flat(tree):
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def updated(solver, gradients, partial_bn=False, rate=1.0):
    """The update of parameters that are zero."""
    optimizer = make_optimizer(solver, partial_bn)
    params = jax.tree.map(np.zeros_like, gradients)
    return optimizer.update(gradients, optimizer.init(params), params, rate=rate)[0]


def test_updates_equal_caffes_solver_written_out():
    """Clip each part, weight decay on weights alone, the rate (biases twice), then momentum."""
    config = OptimizerConfig(
        learning_rate=0.1,
        boundaries=(2,),
        momentum=0.9,
        weight_decay=0.01,
        spatial_multiplier=0.5,
        temporal_multiplier=5.0,
        clip_norm=1.0,
        spatial_clip_norm=0.5,
        temporal_clip_norm=0.25,
    )
    # Part, its rate and its largest norm, written out for every name that a model gives.
    parts = {
        "spatial": ("spatial", 0.5, 0.5),
        "spatial_head": ("spatial", 0.5, 0.5),
        "temporal": ("temporal", 5.0, 0.25),
        "temporal_head": ("temporal", 5.0, 0.25),
        "attention": ("fusion", 1.0, 1.0),
        "head": ("fusion", 1.0, 1.0),
        "spatial_scores": ("fusion", 1.0, 1.0),
    }
    params = {
        name: layer()
        if name.endswith(("head", "scores"))
        else {"conv1": layer(), "fire": {"conv2": layer()}}
        for name in parts
    }
    optimizer, rate = make_optimizer(config), schedule(config, batch_size=7)
    state = optimizer.init(params)
    ours, theirs = jax.tree.map(jnp.asarray, params), flat(jax.tree.map(np.copy, params))
    momenta = {path: np.zeros_like(x) for path, x in theirs.items()}
    for step in range(4):
        # From far below the limits to far above.
        gradients = jax.tree.map(lambda x, size=100.0 ** (step - 2): size * draw(*x.shape), params)
        updates, state = optimizer.update(gradients, state, ours, rate=rate(step))
        ours = optax.apply_updates(ours, updates)

        squares = dict.fromkeys(("spatial", "temporal", "fusion"), 0.0)
        for path, g in flat(gradients).items():
            squares[parts[path.split("'")[1]][0]] += (g**2).sum()
        for path, g in flat(gradients).items():
            part, factor, limit = parts[path.split("'")[1]]
            pull = g * min(1, limit / np.sqrt(squares[part]))
            if path.endswith("['kernel']"):
                pull = pull + 0.01 * theirs[path]
            else:
                factor *= 2
            momenta[path] = 0.9 * momenta[path] + (0.1 if step < 2 else 0.01) * factor * pull
            theirs[path] -= momenta[path]
    for path, w in flat(ours).items():
        np.testing.assert_allclose(w, theirs[path], rtol=1e-4, atol=1e-6)


def test_a_stream_without_a_norm_of_its_own_counts_in_the_global_one():
    gradients = {"spatial": layer(), "temporal": layer(), "head": layer()}
    norm = np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(gradients)))
    solver = OptimizerConfig(learning_rate=1.0, clip_norm=0.5, weight_decay=0.0)
    moved = updated(solver, gradients)["temporal"]["kernel"]
    np.testing.assert_allclose(moved, -gradients["temporal"]["kernel"] * 0.5 / norm, rtol=1e-5)


def test_nothing_moves_without_gradient_and_decay():
    solver = OptimizerConfig(learning_rate=1.0, weight_decay=0.0, temporal_clip_norm=1.0)
    still = updated(solver, jax.tree.map(np.zeros_like, {"temporal": layer(), "head": layer()}))
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), still)


def test_a_gradient_that_is_no_number_is_not_clipped_away():
    """The loop stops at norms that are not finite; clipping may not hide them."""
    for broken in (np.nan, np.inf):
        gradients = {"spatial": layer(), "head": layer()}
        gradients["spatial"]["kernel"][0, 0] = broken
        moved = updated(OptimizerConfig(learning_rate=1.0, spatial_clip_norm=1.0), gradients)
        assert np.isnan(moved["spatial"]["kernel"]).any()


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


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_what_is_frozen_has_no_part_in_clipping(own):
    ones = {f"norm{k}": {"scale": np.full(1, 100, np.float32)} for k in (1, 2)}
    solver = OptimizerConfig(learning_rate=1.0, clip_norm=1.0, spatial_clip_norm=own)
    updates = updated(solver, {"spatial": ones}, partial_bn=True)
    assert updates["spatial"] == {"norm1": {"scale": -1.0}, "norm2": {"scale": 0.0}}


def test_a_stream_that_does_not_learn_has_no_part_in_clipping():
    params = {"spatial": {"conv1": {"kernel": np.full(1, 99, np.float32)}}}
    params["head"] = {"kernel": np.ones(1, np.float32)}
    solver = OptimizerConfig(learning_rate=1.0, clip_norm=1.0, spatial_multiplier=0.0)
    updates = updated(solver, params)
    assert updates["spatial"]["conv1"]["kernel"] == 0
    assert updates["head"]["kernel"] == -1


def test_schedule_warms_up_and_drops():
    rate = schedule(OptimizerConfig(learning_rate=1.0, boundaries=(10, 20), warmup=4), 32)
    values = [float(rate(step)) for step in (0, 1, 3, 9, 10, 19, 20)]
    np.testing.assert_allclose(values, [0.25, 0.5, 1, 1, 0.1, 0.1, 0.01], rtol=1e-6)


def test_the_rate_follows_the_batch_where_it_is_meant_for_one():
    rates = {"learning_rate": 0.001, "boundaries": (10,), "warmup": 2}
    taken = schedule(OptimizerConfig(**rates), 32)
    followed = schedule(OptimizerConfig(**rates, batch_size=128), 32)
    same = schedule(OptimizerConfig(**rates, batch_size=128), 128)
    for step, expected in ((0, 0.0005), (1, 0.001), (9, 0.001), (10, 0.0001)):
        assert float(taken(step)) == float(same(step)) == pytest.approx(expected)
        assert float(followed(step)) == pytest.approx(expected / 4)


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
        ({"learning_rate": 1.0, "batch_size": -1}, r"optimizer.batch_size=-1: at least 0"),
        ({"learning_rate": 1.0, "temporal_multiplier": -1.0}, r"optimizer.temporal_multiplier=-1"),
        ({"learning_rate": 1.0, "spatial_clip_norm": float("nan")}, r"spatial_clip_norm=nan"),
    ],
)
def test_impossible_solvers_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**fields)
