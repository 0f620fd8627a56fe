"""What a training step carries to the next."""

import functools
from typing import TYPE_CHECKING, Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from stpyramid_jax.models.pyramid import ModelConfig, create_model
from stpyramid_jax.training.optimizer import make_optimizer
from stpyramid_jax.training.sharding import AXES, divided, replicated

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


def input_shapes(config: ModelConfig, crop: int, batch: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the images that the model takes, by name."""
    sizes = {"B": batch, "H": crop, "W": crop}
    return {
        name: tuple(size if isinstance(size, int) else sizes[size] for size in axes)
        for name, axes in config.layouts.items()
    }


def example_inputs(config: ModelConfig, crop: int) -> dict[str, jax.Array]:
    """Inputs of one sample, all grey and still."""
    shapes = input_shapes(config, crop, batch=1)
    return {name: jnp.full(shape, 128, jnp.uint8) for name, shape in shapes.items()}


def abstract_batch(experiment: "Experiment", mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Shapes, dtypes and shardings of a training batch."""
    rows, sharding = experiment.training.batch_size, NamedSharding(mesh, PartitionSpec(AXES))
    shapes = input_shapes(experiment.model, experiment.input.crop, rows)
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=sharding)
        for name, shape in shapes.items()
    }
    return batch | {"label": jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=sharding)}


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


def placed(state: TrainState, mesh: jax.sharding.Mesh, divide: bool = True) -> TrainState:
    """The sharding of each array of a state, or of its shapes.

    Parameters and optimizer state are divided over the mesh's axis `model`, unless told not to be.
    """
    places = jax.tree.map(lambda _: replicated(mesh), state)
    if not divide:
        return places
    return places.replace(
        params=divided(state.params, mesh), opt_state=divided(state.opt_state, mesh)
    )


def abstract_state(
    experiment: "Experiment", mesh: jax.sharding.Mesh, divide: bool = True
) -> TrainState:
    """Shapes, dtypes and shardings of a state, without computing one; `divide` as in `placed`."""
    shapes = jax.eval_shape(functools.partial(init_state, experiment), jax.random.key(0))
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        shapes,
        placed(shapes, mesh, divide),
    )
