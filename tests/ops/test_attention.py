"""Attention pooling: weights over positions that sum to one, and a sum, not a mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stpyramid_jax.ops.attention import attention_pool

RNG = np.random.default_rng(0)
FEATURES = jnp.asarray(RNG.normal(size=(2, 3, 4, 5)), jnp.float32)
SCORES = jnp.asarray(RNG.normal(size=(2, 3, 4)), jnp.float32)
pool = jax.jit(attention_pool)


def test_is_the_softmax_weighted_sum():
    pooled, weights = pool(FEATURES, SCORES)
    for b in range(2):
        raised = np.exp(np.asarray(SCORES[b], np.float64))
        expected = raised / raised.sum()
        np.testing.assert_allclose(weights[b], expected, rtol=1e-5)
        by_hand = sum(expected[i, j] * np.asarray(FEATURES[b, i, j]) for i, j in np.ndindex(3, 4))
        np.testing.assert_allclose(pooled[b], by_hand, rtol=1e-5, atol=1e-6)


def test_weights_sum_to_one_over_positions_not_over_channels():
    """Where the softmax runs over an axis of length one, every weight is 1 and the sum 12."""
    _, weights = pool(FEATURES, SCORES)
    np.testing.assert_allclose(weights.sum((1, 2)), 1, rtol=1e-6)
    assert weights.max() < 1


def test_equal_scores_are_average_pooling():
    pooled, _ = pool(FEATURES, jnp.full_like(SCORES, 3.0))
    np.testing.assert_allclose(pooled, FEATURES.mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_a_decided_score_picks_its_position_at_full_scale():
    """A weighted mean would divide by the number of positions once more."""
    pooled, _ = pool(FEATURES, SCORES.at[:, 1, 2].set(200.0))
    np.testing.assert_allclose(pooled, FEATURES[:, 1, 2], rtol=1e-5)


def test_gradient_of_the_features_is_the_weight_of_their_position():
    gradient = jax.grad(lambda features: pool(features, SCORES)[0].sum())(FEATURES)
    weights = jnp.broadcast_to(pool(FEATURES, SCORES)[1][..., None], FEATURES.shape)
    np.testing.assert_allclose(gradient, weights, rtol=1e-5)


def test_scores_matter_only_by_their_differences_and_do_not_overflow():
    expected = pool(FEATURES, SCORES)[1]
    np.testing.assert_allclose(pool(FEATURES, SCORES + 5000)[1], expected, rtol=1e-2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype_of_the_features_is_kept(dtype):
    pooled, weights = pool(FEATURES.astype(dtype), SCORES.astype(dtype))
    assert pooled.dtype == weights.dtype == jnp.dtype(dtype)
    exact, _ = pool(FEATURES, SCORES)
    np.testing.assert_allclose(pooled.astype(jnp.float32), exact, atol=4 * jnp.finfo(dtype).eps)


def test_scores_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 1, 4\) for features of \(2, 3, 4, 5\)"):
        attention_pool(FEATURES, SCORES[:, :1])
