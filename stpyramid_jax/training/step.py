"""One update, as a pure function."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from stpyramid_jax.models.pyramid import Outputs, Pyramid
from stpyramid_jax.training.optimizer import without_frozen
from stpyramid_jax.training.sharding import gathered, scattered
from stpyramid_jax.training.state import TrainState


def loss_fn(
    outputs: Outputs, labels: Int[Array, " B"], label_smoothing: float = 0.0
) -> Float[Array, ""]:
    """Cross entropy of the class scores, or the sum of those that are trained on their own.

    With label smoothing e the target is 1 - e + e / K for the label, e / K for each other class.
    """

    def loss(scores):
        if not label_smoothing:
            return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()
        targets = optax.smooth_labels(jax.nn.one_hot(labels, scores.shape[-1]), label_smoothing)
        return optax.softmax_cross_entropy(scores, targets).mean()

    losses = [loss(scores) for scores in outputs.streams.values()] or [loss(outputs.logits)]
    return sum(losses[1:], start=losses[0])


def attention_entropy(attention: Float[Array, "B h w"]) -> Float[Array, ""]:
    """Mean entropy as a share of log(h w): 1 looks everywhere alike, 0 at one position only."""
    positions = attention.shape[-2] * attention.shape[-1]
    if positions == 1:
        return jnp.ones((), attention.dtype)
    return jax.scipy.special.entr(attention).sum((-2, -1)).mean() / math.log(positions)


def train_step(
    state: TrainState,
    batch: Mapping[str, Array],
    key: jax.Array,
    *,
    model: Pyramid,
    optimizer: optax.GradientTransformationExtraArgs,
    rate: optax.Schedule,
    accumulate: int = 1,
    label_smoothing: float = 0.0,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Moves the parameters one step down the gradient of the batch's mean loss.

    A batch is cut into `accumulate` micro-batches, one after the other, and the mean of their
    gradients is clipped (Caffe's iter_size clips the sum, so that its limit tightens with the
    number of parts). Batch normalisation sees a whole micro-batch, however many devices share it,
    and its statistics go from one to the next.

    Args:
      state: before the step; `state.step` numbers the dropout masks drawn from `key`.
      batch: `rgb`, `flow`, `label` as the input pipeline yields them, [B, ...].
      key: of the run.
      model: the network.
      optimizer: of `make_optimizer`.
      rate: learning rate by step.
      accumulate: number of micro-batches, a divisor of B.
      label_smoothing: see `loss_fn`.

    Returns:
      The next state, and means over the batch: `loss`, `accuracy`, `attention_entropy` where the
      model attends; `learning_rate` of the step; L2 norms `gradient_norm` before clipping, of all
      that learns and of each top level of the parameters, and `update_norm`.
    """
    dropout = jax.random.fold_in(key, state.step)

    def gradient(collections, rows, dropout):
        def objective(params):
            outputs, updated = model.apply(
                {"params": gathered(params), **collections},
                rows,
                train=True,
                rngs={"dropout": dropout},
                mutable=["batch_stats"],
            )
            return loss_fn(outputs, rows["label"], label_smoothing), (outputs, updated)

        (loss, (outputs, updated)), gradients = jax.value_and_grad(objective, has_aux=True)(
            state.params
        )
        metrics = {"loss": loss, "accuracy": jnp.mean(outputs.logits.argmax(-1) == rows["label"])}
        if outputs.attention is not None:
            metrics["attention_entropy"] = attention_entropy(outputs.attention)
        return {**collections, **updated}, (scattered(gradients), metrics)

    if accumulate == 1:
        collections, (gradients, metrics) = gradient(state.collections, batch, dropout)
    else:
        collections, (gradients, metrics) = _mean_over(
            gradient, accumulate, state.collections, batch, dropout
        )
    gradients = without_frozen(gradients, model.config.partial_bn)
    step_rate = jnp.asarray(rate(state.step), jnp.float32)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, rate=step_rate)
    metrics |= {
        "learning_rate": step_rate,
        "gradient_norm": optax.tree.norm(gradients),
        **{f"gradient_norm/{name}": optax.tree.norm(part) for name, part in gradients.items()},
        "update_norm": optax.tree.norm(updates),
    }
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        collections=collections,
        opt_state=opt_state,
    )
    return state, metrics


def _mean_over(gradient, count: int, collections: Any, batch: Mapping[str, Array], key: jax.Array):
    """`gradient` over micro-batches in order: the last collections and the mean of the rest.

    Micro-batch i has the rows i, i + count, ...: each device holds a run of rows, of which every
    micro-batch takes its part, so that no row moves between devices.
    """

    def cut(x):
        return jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)

    def add(carry, part):
        collections, total = carry
        collections, values = gradient(collections, *part)
        return (collections, jax.tree.map(jnp.add, total, values)), None

    parts = (jax.tree.map(cut, dict(batch)), jax.random.split(key, count))
    _, shapes = jax.eval_shape(
        lambda parts: gradient(collections, *jax.tree.map(lambda x: x[0], parts)), parts
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    # XLA's loops on CPU are slow: there it takes the memory of all micro-batches instead.
    unroll = count if jax.default_backend() == "cpu" else 1
    (collections, total), _ = jax.lax.scan(add, (collections, zeros), parts, unroll=unroll)
    return collections, jax.tree.map(lambda x: x / count, total)
