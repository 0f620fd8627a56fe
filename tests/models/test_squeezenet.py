"""SqueezeNet against its paper written in NumPy, and with the real ImageNet arrays."""

import functools

import cv2
import jax
import numpy as np

from stpyramid_jax.models.backbones import BACKBONES, CAFFE
from tests.models.test_backbones import built, image_of, paths_of


def convolve(x, kernel, bias, stride=1, same=True):
    """[H, W, C], zeros around as SAME does: one more after than before where the sum is odd."""
    size = kernel.shape[0]
    pads = []
    for length in x.shape[:2]:
        total = max((-(-length // stride) - 1) * stride + size - length, 0) if same else 0
        pads.append((total // 2, total - total // 2))
    padded = np.pad(x, [*pads, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(0, 1))
    return np.einsum("hwcij,ijcd->hwd", windows[::stride, ::stride], kernel, optimize=True) + bias


def max_pool(x):
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))
    return windows[::2, ::2].max((-2, -1))


def squeezenet(arrays, image):
    """SqueezeNet 1.1 from its paper, with the padding of its public arrays: [H, W, 3] -> fire9."""

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


def nested(arrays):
    """`a/b/c` names as nested dictionaries."""
    tree = {}
    for name, array in arrays.items():
        *path, last = name.split("/")
        functools.reduce(lambda branch, part: branch.setdefault(part, {}), path, tree)[last] = array
    return tree


def test_squeezenet_is_its_paper():
    """At 112 pixels what SAME pads is seen by no pool."""
    make, variables = built("squeezenet")
    leaves = jax.tree.leaves(variables["params"])
    arrays = dict(zip(paths_of(variables["params"]), map(np.asarray, leaves), strict=True))
    image = image_of((112, 112), batch=1)
    expected = squeezenet(arrays, np.asarray(image[0]))
    actual = jax.jit(make().apply)(variables, image)[0]
    assert actual.shape == expected.shape == (6, 6, 512)
    np.testing.assert_allclose(actual, expected, atol=1e-4 * expected.max())


def test_squeezenet_with_imagenet_weights_sees_the_horizontal_bar(real):
    """ImageNet's class 602 comes first in a clip of pull-ups; the arrays are for BGR."""
    with np.load(real.parent / "weights" / "squeezenet1_1_imagenet.npz") as file:
        arrays = dict(file)
    video = cv2.VideoCapture(str(real / "ucf10/videos/PullUps/v_PullUps_g04_c01.avi"))
    ok, frame = video.read()
    video.release()
    assert ok
    bgr = cv2.resize(frame[:, 40:280], (224, 224)).astype(np.float32) - np.float32(CAFFE.mean[::-1])
    features = squeezenet(arrays, bgr)
    scores = np.maximum(convolve(features, arrays["conv10/kernel"], arrays["conv10/bias"]), 0)
    module = BACKBONES["squeezenet"].module(num_classes=1000)
    actual = jax.jit(module.apply)({"params": nested(arrays)}, bgr[None])[0]
    np.testing.assert_allclose(actual, scores.mean((0, 1)), atol=1e-3 * scores.max())
    assert actual.argmax() == 602
