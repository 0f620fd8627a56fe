"""Attention pooling: a weighted sum over the positions of a map."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def attention_pool(
    features: Float[Array, "*batch h w C"], scores: Float[Array, "*batch h w"]
) -> tuple[Float[Array, "*batch C"], Float[Array, "*batch h w"]]:
    """Pools a map by the softmax of its scores over all positions.

        weights[i, j] = exp(scores[i, j]) / sum over positions,  pooled = sum weights * features

    A sum, not a mean: the weights already add up to one ("Spatiotemporal Attention" of Wang et
    al., CVPR 2017). Equal scores give average pooling. The softmax runs in float32 at least.

    Returns:
      (pooled, weights); weights [*batch, h, w] sum to one over h and w.
    """
    if features.shape[:-1] != scores.shape:
        raise ValueError(
            f"attention_pool: scores of shape {scores.shape} for features of {features.shape}: "
            "give one score for each position"
        )
    wide = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    weights = jax.nn.softmax(wide, axis=(-2, -1)).astype(features.dtype)
    return jnp.einsum("...hw,...hwc->...c", weights, features), weights
