"""What a training step carries to the next."""

import functools
from typing import TYPE_CHECKING, Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from stpyramid_jax.models.pyramid import ModelConfig, create_model
from stpyramid_jax.training.optimizer import make_optimizer
from stpyramid_jax.training.sharding import replicated

if TYPE_CHECKING:
    from stpyramid_jax.experiment import Experiment


class TrainState(flax.struct.PyTreeNode):
    """Parameters with everything that training changes or must keep beside them.

    Attributes:
      step: updates done so far.
      params: what the optimizer moves.
      collections: the other collections of the model: `sketch` and `units`, which nothing moves,
        and `batch_stats`, which the forward pass moves.
      opt_state: of the optimizer.
    """

    step: jax.Array
    params: Any
    collections: Any
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, Any]:
        return {"params": self.params, **self.collections}


def example_inputs(config: ModelConfig, crop: int) -> dict[str, jax.Array]:
    """Inputs of the shapes that the model takes, all grey and still."""
    sizes = {"B": 1, "H": crop, "W": crop}
    shapes = {
        name: [size if isinstance(size, int) else sizes[size] for size in axes]
        for name, axes in config.layouts.items()
    }
    return {name: jnp.full(shape, 128, jnp.uint8) for name, shape in shapes.items()}


def init_state(experiment: "Experiment", key: jax.Array) -> TrainState:
    """A fresh state; runs under `jit`, and under `jax.eval_shape` for its shapes alone."""
    model = create_model(experiment.model)
    inputs = example_inputs(experiment.model, experiment.input.crop)
    variables = dict(model.init(key, inputs, train=False))
    params = variables.pop("params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        collections=variables,
        opt_state=make_optimizer(experiment.optimizer, experiment.model.partial_bn).init(params),
    )


def abstract_state(experiment: "Experiment", mesh: jax.sharding.Mesh) -> TrainState:
    """Shapes, dtypes and shardings of a state, without computing one."""
    shapes = jax.eval_shape(functools.partial(init_state, experiment), jax.random.key(0))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), shapes
    )
