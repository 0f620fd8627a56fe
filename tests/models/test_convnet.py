"""What a position of the ConvNet sees, and how it normalises."""

import functools

import jax
import numpy as np
import pytest

from stpyramid_jax.models.backbones import BACKBONES
from tests.models.test_backbones import RNG, image_of, shapes_of


@pytest.fixture(scope="module")
def convnet():
    """(module, variables) for images of two channels, without offsets."""
    module = BACKBONES["convnet"].module()
    shapes = shapes_of("convnet", (16, 16), channels=2)[1]

    def fill(path, leaf):
        if path[-1].key == "kernel":
            return RNG.normal(0, 0.1, leaf.shape).astype(np.float32)
        return np.full(leaf.shape, float(path[-1].key in ("scale", "var")), np.float32)

    return module, jax.tree_util.tree_map_with_path(fill, shapes)


def test_a_position_of_convnet_sees_31_pixels(convnet):
    """The gradient of one position of the map reaches a window of 31 x 31 and nothing beyond."""
    module, variables = convnet

    @jax.jit
    @jax.value_and_grad
    def position(image):
        features = module.apply(variables, image)
        assert features.shape == (1, 8, 8, 64)
        return features[0, 4, 4].sum()

    gradient = position(image_of((64, 64), channels=2, batch=1))[1]
    rows, columns = np.nonzero(np.abs(gradient[0]).sum(-1))
    assert np.ptp(rows) == np.ptp(columns) == 30


def test_convnet_normalizes_by_the_batch_in_training_only(convnet):
    module, variables = convnet
    apply = jax.jit(functools.partial(module.apply, mutable=["batch_stats"]), static_argnums=2)
    image = image_of((16, 16), channels=2)
    quiet, _ = apply(variables, image, True)
    loud, moved = apply(variables, image * 10, True)
    np.testing.assert_allclose(loud, quiet, atol=0.02)
    assert moved["batch_stats"]["norm1"]["var"].min() > 1
    tested, _ = apply(variables, image, False)
    louder, _ = apply(variables, image * 10, False)
    # What is next to the ReLU's zero has cancelled, and rounds as threads divide the sums.
    np.testing.assert_allclose(louder, tested * 10, rtol=1e-3, atol=1e-5)
