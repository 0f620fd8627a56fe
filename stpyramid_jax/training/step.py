"""One update, as a pure function."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from stpyramid_jax.models.pyramid import Outputs, Pyramid
from stpyramid_jax.training.state import TrainState


def loss_fn(outputs: Outputs, labels: Int[Array, " B"]) -> Float[Array, ""]:
    """Cross entropy over the whole network; of each stream alone where only scores are fused."""
    scores = list(outputs.streams.values()) or [outputs.logits]
    losses = [optax.softmax_cross_entropy_with_integer_labels(s, labels).mean() for s in scores]
    return sum(losses[1:], start=losses[0])


def train_step(
    state: TrainState,
    batch: Mapping[str, Array],
    key: jax.Array,
    *,
    model: Pyramid,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Moves the parameters one step down the gradient of the batch's mean loss.

    Batch normalisation sees the whole batch, however many devices share it.

    Args:
      state: before the step; `state.step` numbers the dropout masks drawn from `key`.
      batch: `rgb`, `flow`, `label` as the input pipeline yields them.
      key: of the run.
    """
    dropout = jax.random.fold_in(key, state.step)

    def objective(params):
        outputs, updated = model.apply(
            {"params": params, **state.collections},
            batch,
            train=True,
            rngs={"dropout": dropout},
            mutable=["batch_stats"],
        )
        return loss_fn(outputs, batch["label"]), (outputs, updated)

    (loss, (outputs, updated)), gradients = jax.value_and_grad(objective, has_aux=True)(
        state.params
    )
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    metrics = {
        "loss": loss,
        "accuracy": jnp.mean(outputs.logits.argmax(-1) == batch["label"]),
        "gradient_norm": optax.tree.norm(gradients),
        "update_norm": optax.tree.norm(updates),
    }
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        collections={**state.collections, **updated},
        opt_state=opt_state,
    )
    return state, metrics
