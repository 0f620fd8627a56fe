"""The backbones against independent forwards, their units, and what a position of a map sees."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stpyramid_jax.models.backbones import BACKBONES
from stpyramid_jax.models.pretrained import load_arrays

RNG = np.random.default_rng(0)


def convolve(x, kernel, bias, stride=1):
    """[H, W, C], zeros around as SAME does: one more after than before where the sum is odd."""
    size = kernel.shape[0]
    pads = []
    for length in x.shape[:2]:
        total = max((-(-length // stride) - 1) * stride + size - length, 0)
        pads.append((total // 2, total - total // 2))
    padded = np.pad(x, [*pads, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(0, 1))
    return np.einsum("hwcij,ijcd->hwd", windows[::stride, ::stride], kernel, optimize=True) + bias


def max_pool(x):
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))
    return windows[::2, ::2].max((-2, -1))


def squeezenet(arrays, image):
    """SqueezeNet 1.1 from its paper and the layout of its arrays: [H, W, 3] -> fire9."""

    def layer(x, name, stride=1):
        kernel, bias = arrays[f"{name}/kernel"], arrays[f"{name}/bias"]
        return np.maximum(convolve(x, kernel, bias, stride), 0)

    x = max_pool(layer(image, "conv1", stride=2))
    for number in range(2, 10):
        squeezed = layer(x, f"fire{number}/squeeze1x1")
        sides = [layer(squeezed, f"fire{number}/expand{side}") for side in ("1x1", "3x3")]
        x = np.concatenate(sides, axis=-1)
        x = max_pool(x) if number in (3, 5) else x
    return x


def tree_of(arrays):
    """`a/b/c` names as nested dictionaries; the classifier is not the backbone's."""
    tree = {}
    for name, array in arrays.items():
        if not name.startswith("conv10"):
            *path, last = name.split("/")
            branch = tree
            for part in path:
                branch = branch.setdefault(part, {})
            branch[last] = array
    return tree


def agree(arrays, image):
    """Both forwards of RGB bytes; the independent one writes out BGR and its means itself."""
    backbone = BACKBONES["squeezenet"]
    forward = jax.jit(lambda params, x: backbone.module().apply({"params": params}, x))
    actual = forward(tree_of(arrays), backbone.normalize_rgb(jnp.asarray(image)[None]))[0]
    bgr = image[..., ::-1].astype(np.float32) - np.array([103.939, 116.779, 123.68], np.float32)
    expected = squeezenet(arrays, bgr)
    assert actual.shape == expected.shape
    assert expected.max() > 0
    np.testing.assert_allclose(actual, expected, atol=1e-3 * expected.max())
    return expected


def test_squeezenet_is_its_paper():
    shapes = jax.eval_shape(
        BACKBONES["squeezenet"].module().init, jax.random.key(0), jnp.ones((1, 50, 47, 3))
    )
    arrays = {
        "/".join(key.key for key in path): RNG.normal(size=leaf.shape).astype(np.float32)
        * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes["params"])
    }
    # Odd and even sides: SAME pads them differently.
    agree(arrays, RNG.integers(0, 256, (50, 47, 3)).astype(np.uint8))


def test_squeezenet_with_imagenet_weights_sees_the_horizontal_bar(real):
    """ImageNet's class 602 comes first in a clip of pull-ups."""
    arrays = load_arrays(real.parent / "weights" / "squeezenet1_1_imagenet.npz")
    video = cv2.VideoCapture(str(real / "ucf10/videos/PullUps/v_PullUps_g04_c01.avi"))
    ok, frame = video.read()
    video.release()
    assert ok
    features = agree(arrays, cv2.resize(frame[:, 40:280], (224, 224))[..., ::-1])
    scores = np.maximum(convolve(features, arrays["conv10/kernel"], arrays["conv10/bias"]), 0)
    assert scores.mean((0, 1)).argmax() == 602


@pytest.mark.parametrize(("side", "expected"), [(224, 13), (112, 6)])
def test_squeezenet_maps_have_their_published_size(side, expected):
    backbone = BACKBONES["squeezenet"].module()
    shape = jax.eval_shape(
        backbone.init_with_output, jax.random.key(0), jnp.ones((2, side, side, 20))
    )[0].shape
    assert shape == (2, expected, expected, 512)


@pytest.fixture(scope="module")
def convnet():
    """(module, variables) for images of two channels."""
    module = BACKBONES["convnet"].module()
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((2, 16, 16, 2)))

    def fill(path, leaf):
        if path[-1].key == "kernel":
            return RNG.normal(0, 0.1, leaf.shape).astype(np.float32)
        return np.full(leaf.shape, float(path[-1].key in ("scale", "var")), np.float32)

    return module, jax.tree_util.tree_map_with_path(fill, shapes)


def test_a_position_of_convnet_sees_31_pixels(convnet):
    """The gradient of one position of the map reaches a window of 31 x 31 and nothing beyond."""
    module, variables = convnet
    image = jnp.asarray(RNG.normal(size=(1, 64, 64, 2)), jnp.float32)

    @jax.jit
    @jax.value_and_grad
    def position(image):
        features = module.apply(variables, image)
        assert features.shape == (1, 8, 8, 64)
        return features[0, 4, 4].sum()

    rows, columns = np.nonzero(np.abs(position(image)[1][0]).sum(-1))
    assert np.ptp(rows) == np.ptp(columns) == 30


def test_convnet_normalizes_by_the_batch_in_training_only(convnet):
    module, variables = convnet
    image = jnp.asarray(RNG.normal(size=(2, 16, 16, 2)), jnp.float32)
    quiet, _ = module.apply(variables, image, True, mutable=["batch_stats"])
    loud, moved = module.apply(variables, image * 10, True, mutable=["batch_stats"])
    np.testing.assert_allclose(loud, quiet, atol=0.02)
    assert moved["batch_stats"]["norm1"]["var"].min() > 1
    tested = module.apply(variables, image)
    np.testing.assert_allclose(module.apply(variables, image * 10), tested * 10, rtol=1e-3)


@pytest.mark.parametrize("name", BACKBONES)
def test_mirrored_flow_is_the_exact_negative(name):
    """The flip of the pipeline turns a byte b of the x field into 255 - b."""
    normalize = BACKBONES[name].normalize_flow
    flow = jnp.arange(256, dtype=jnp.uint8)[None]
    np.testing.assert_array_equal(normalize(255 - flow), -normalize(flow))
    assert normalize(flow).dtype == jnp.float32


@pytest.mark.parametrize("name", BACKBONES)
def test_rgb_bytes_become_the_units_of_the_weights(name):
    backbone = BACKBONES[name]
    image = jnp.asarray([[[255, 0, 100]]], jnp.uint8)
    ordered = np.array([255.0, 0.0, 100.0])[list(backbone.channels)]
    expected = (ordered - np.array(backbone.mean)) * backbone.scale
    np.testing.assert_allclose(backbone.normalize_rgb(image)[0, 0], expected, rtol=1e-6)
