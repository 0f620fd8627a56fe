"""Pyramids of every kind that compute in a blink, and inputs for them."""

import functools

import jax
import numpy as np

from stpyramid_jax.models.pyramid import ModelConfig, create_model, named_model

SIDE = 16  # a map of 2 x 2


def config_of(name="D", **fields):
    small = {"num_classes": 5, "backbone": "convnet", "snippet_length": 2, "head_std": 0.1}
    return ModelConfig(**(small | {"sketch_dims": (32, 48, 64)} | named_model(name) | fields))


def inputs_of(config, seed=0, batch=2, side=SIDE):
    """All inputs, whether the model reads them or not."""
    rng = np.random.default_rng(seed)
    shapes = {
        "rgb": (batch, side, side, 3),
        "flow": (batch, config.snippets, side, side, 2 * config.snippet_length),
        "frames": (batch, config.snippets, config.snippet_length + 1, side, side, 3),
    }
    return {name: rng.integers(0, 256, shape).astype(np.uint8) for name, shape in shapes.items()}


def variables_of(model, inputs, seed=0):
    """Distributed as at a start, without compiling the start of every model."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        level, name = path[1].key, path[-1].key
        if name == "hash":
            bins = model.config.sketch_dims[int(level[-1]) - 1]
            return rng.integers(0, bins, leaf.shape, np.int32)
        if name == "sign":
            return rng.choice([-1.0, 1.0], leaf.shape).astype(np.float32)
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            std = model.config.head_std if "head" in level else 1 / np.sqrt(fan_in)
            return rng.normal(0, std, leaf.shape).astype(np.float32)
        return np.full(leaf.shape, float(name in ("scale", "var")), np.float32)

    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))
    return jax.tree_util.tree_map_with_path(fill, shapes)


@functools.cache
def built(name="D", **fields):
    """(a forward pass of inputs, variables, inputs) of a model."""
    config = config_of(name, **fields)
    model, inputs = create_model(config), inputs_of(config)
    variables = variables_of(model, inputs)
    return functools.partial(model.apply, variables, train=False), variables, inputs


def logits_change(forward, inputs, **changed):
    return np.abs(forward(inputs | changed).logits - forward(inputs).logits).max()
