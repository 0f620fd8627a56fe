"""Gradients of model D at its start, at the sizes of the paper."""

import functools

import jax
import numpy as np
import pytest

from stpyramid_jax.models.pyramid import create_model
from tests.models.small_pyramids import config_of, inputs_of, variables_of


@functools.cache
def started():
    """(loss and gradient of parameters and inputs, parameters, inputs) of D at the paper's size."""
    config = config_of("D", sketch_dims=(1024, 2048, 4096), head_std=0.001, dropout=0.0)
    model = create_model(config)
    inputs = jax.tree.map(np.float32, inputs_of(config, batch=4, side=32))
    variables = variables_of(model, inputs)
    labels = np.arange(4)

    def loss(params, inputs):
        outputs, _ = model.apply(
            variables | {"params": params}, inputs, train=True, mutable=["batch_stats"]
        )
        return -jax.nn.log_softmax(outputs.logits)[labels, labels].mean()

    return jax.jit(jax.value_and_grad(loss)), variables["params"], inputs


def norm(tree):
    return float(np.sqrt(sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(tree))))


def test_the_head_learns_at_the_published_rate():
    """A step of 0.001 moves the scores by about 0.001 x 4096 x (y - p) with features of unit RMS.
    With features of unit norm it would be 0.001 x (y - p), and the loss would stay at ln 5."""
    value_and_grad, params, inputs = started()
    before, gradient = value_and_grad(params, inputs)
    after, _ = value_and_grad(jax.tree.map(lambda p, g: p - 0.001 * g, params, gradient), inputs)
    assert before == pytest.approx(np.log(5), abs=0.1)
    assert before - after > 0.2


def test_gradients_of_all_levels_have_a_sane_size_at_the_start():
    """Relative to their parameters: a first step of 0.001 changes no trunk by more than a percent,
    and one rate suits all, since none moves thirty times slower than another."""
    value_and_grad, params, inputs = started()
    _, gradient = value_and_grad(params, inputs)
    relative = {key: norm(gradient[key]) / norm(params[key]) for key in params if key != "head"}
    assert set(relative) == {"spatial", "temporal", "attention"}
    assert max(relative.values()) < 10
    assert max(relative.values()) < 30 * min(relative.values())


@pytest.mark.parametrize("blank", ["flow", "rgb", "both"])
def test_gradients_are_finite_where_nothing_moves_or_shows(blank):
    """A grey of 127.5 is zero in the network's units: maps, spectra and products all vanish."""
    value_and_grad, params, inputs = started()
    grey = {
        key: np.full_like(value, 127.5) if blank in (key, "both") else value
        for key, value in inputs.items()
    }
    loss, gradient = value_and_grad(params, grey)
    assert np.isfinite(loss)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
