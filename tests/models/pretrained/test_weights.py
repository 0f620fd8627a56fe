"""Files become weights of a backbone, whole and finite, or are refused in one line."""

import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from stpyramid_jax.models.backbones import CAFFE, IMAGENET, TSN
from stpyramid_jax.models.pretrained import Weights, load_weights, weights_of
from stpyramid_jax.models.pretrained.names import DIALECTS
from stpyramid_jax.models.pretrained.translation import to_file
from tests.models.pretrained.samples import caffemodel, small_of, variables_of


def state_of(backbone):
    """A file's arrays for a backbone, with few channels."""
    dialect = next(dialect for dialect in DIALECTS if dialect.backbone == backbone)
    return to_file(small_of(backbone), dialect)


def same(arrays, expected):
    assert arrays.keys() == expected.keys()
    for path, array in expected.items():
        assert arrays[path].dtype == np.float32
        np.testing.assert_array_equal(arrays[path], array, err_msg=path)


def test_a_file_becomes_weights(tmp_path):
    path = tmp_path / "resnet18.safetensors"
    save_file(state_of("resnet18") | {"ema.decay": np.ones(1)}, path)
    weights = load_weights(path, "resnet18")
    same(weights.arrays, small_of("resnet18"))
    assert weights.source == str(path)
    assert weights.units == IMAGENET
    assert weights.notes == ("1 unexpected: ema.decay",)


def test_the_npz_of_squeezenet(tmp_path):
    """Our names and layouts, but BGR and Caffe's units."""
    arrays = small_of("squeezenet")
    path = tmp_path / "squeezenet.npz"
    np.savez(path, **(arrays | {"conv1/kernel": arrays["conv1/kernel"][:, :, ::-1]}))
    weights = load_weights(path, "squeezenet")
    same(weights.arrays, arrays)
    assert weights.units == CAFFE


def test_a_caffemodel_of_tsn(tmp_path):
    rng = np.random.default_rng(0)
    dialect = next(d for d in DIALECTS if (d.backbone, d.source) == ("bn_inception", "Caffe"))
    layers = {}
    for layer in dialect.layers:
        shapes = {
            "conv": [(4, 3, 1, 1), (4,)],
            "norm": [(1, 4, 1, 1)] * 4,
            "dense": [(5, 4), (5,)],
        }
        layers[layer.theirs] = [np.abs(rng.normal(size=shape)) for shape in shapes[layer.kind]]
    path = tmp_path / "tsn.caffemodel.v5"
    path.write_bytes(caffemodel(layers))
    weights = load_weights(path, "bn_inception")
    assert len(weights.arrays) == 69 * 2 + 69 * 4 + 2
    assert weights.units == TSN
    kernel = layers["conv1/7x7_s2"][0].astype(np.float32)
    np.testing.assert_array_equal(
        weights.arrays["conv1/kernel"], kernel[:, ::-1].transpose(2, 3, 1, 0)
    )
    scale, bias, mean, var = layers["inception_5b/pool_proj_bn"]
    for field, blob in zip(("scale", "bias", "mean", "var"), (scale, bias, mean, var), strict=True):
        np.testing.assert_array_equal(
            weights.arrays[f"inception_5b/norm_pool_proj/{field}"],
            blob.reshape(-1).astype(np.float32),
        )


def test_other_precisions_become_float32_and_what_that_rounds_is_told(tmp_path):
    state = {name: a for name, a in state_of("squeezenet").items() if a.ndim == 4}
    exact = {name: array.astype(np.float16) for name, array in state.items()}
    exact["features.0.weight"] = exact["features.0.weight"].astype(np.float64)
    save_file(exact, tmp_path / "exact.safetensors")
    weights = load_weights(tmp_path / "exact.safetensors", "squeezenet")
    assert weights.notes == ()
    np.testing.assert_array_equal(
        weights.arrays["conv1/kernel"], exact["features.0.weight"].transpose(2, 3, 1, 0)
    )
    save_file(exact | {"classifier.1.bias": np.array([1 / 3])}, tmp_path / "third.safetensors")
    weights = load_weights(tmp_path / "third.safetensors", "squeezenet")
    assert weights.notes == ("1 arrays rounded to float32: conv10/bias",)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (np.float32([1, np.nan, np.inf]), "conv1/bias: 2 of 3 values are not finite"),
        (np.array([1.0, 1e300, 0.0]), "conv1/bias: 1 of 3 values are not finite"),
        (np.array([1, 2, 3], np.int8), "conv1/bias is int8"),
        (np.array([1, 2, 3], np.complex64), "conv1/bias is complex64"),
    ],
)
def test_what_is_not_finite_numbers_is_refused(tmp_path, value, word):
    path = tmp_path / "a.safetensors"
    save_file(state_of("squeezenet") | {"features.0.bias": value}, path)
    with pytest.raises(ValueError, match=word) as error:
        load_weights(path, "squeezenet")
    assert str(error.value).startswith(f"weights {path}: ")


def test_a_negative_variance_is_refused(tmp_path):
    state = state_of("resnet18")
    state["bn1.running_var"] = -state["bn1.running_var"]
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"norm1/var: .*variances are not negative"):
        load_weights(tmp_path / "a.safetensors", "resnet18")


def test_another_network_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(state_of("resnet18"), path)
    with pytest.raises(ValueError, match=r"^weights .*: looks like resnet18.*backbone is vgg16$"):
        load_weights(path, "vgg16")
    with pytest.raises(ValueError, match=r"looks like resnet18.*backbone is convnet$"):
        load_weights(path, "convnet")
    with pytest.raises(ValueError, match=r"torchvision/resnet50: of resnet50; .* is resnet18$"):
        load_weights("torchvision/resnet50", "resnet18")


def test_what_is_neither_a_file_nor_a_name_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"no such file.*name for resnet50 \(torchvision/resnet50, "
    ) as e:
        load_weights("torchvision/resnet51", "resnet50")
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="a folder"):
        load_weights(tmp_path, "resnet50")


@pytest.mark.parametrize(
    "units",
    [
        "",
        "[]",
        "{}",
        '{"mean": [1, 2, 3], "scale": [1, 1, 0]}',
        '{"mean": [1, 2], "scale": [1, 1]}', '{"mean": "abc", "scale": [1, 1, 1]}',
     '{"mean": [1, 2, NaN], "scale": [1, 1, 1]}', "[" * 10000],
)  # fmt: skip
def test_units_that_nobody_wrote_are_refused(tmp_path, units):
    path = tmp_path / "a.safetensors"
    save_file(state_of("squeezenet"), path, {"units": units})
    with pytest.raises(ValueError, match=r"^weights .*: its units") as error:
        load_weights(path, "squeezenet")
    assert "\n" not in str(error.value)


def test_weights_of_variables_are_those_of_a_stream():
    variables = variables_of("convnet")
    units = {"mean": np.float32([1, 2, 3]), "scale": np.float32([4, 5, 6])}
    weights = weights_of(variables | {"units": units}, "here")
    assert weights.source == "here"
    assert (weights.units.mean, weights.units.scale) == ((1, 2, 3), (4, 5, 6))
    assert len(weights.arrays) == 4 * 5
    np.testing.assert_array_equal(
        weights.arrays["norm2/var"], variables["batch_stats"]["norm2"]["var"]
    )
    assert weights_of({"params": {}}, "nothing") == Weights("nothing", {}, None)


CONTENTS = {
    ".safetensors": save(
        state_of("squeezenet"), {"units": json.dumps({"mean": [0] * 3, "scale": [1] * 3})}
    ),
    ".caffemodel": caffemodel(
        {
            layer.theirs: [np.ones((3, 3, 1, 1)), np.ones(3)]
            for layer in next(d for d in DIALECTS if d.source == "Caffe").layers
        }
    ),
}


@pytest.mark.parametrize("suffix", CONTENTS)
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damage_of_any_kind_is_one_line_or_finite_weights(tmp_path, suffix, data):
    """Truncations and flipped bits. Only flips inside numbers cannot be told."""
    content = bytearray(CONTENTS[suffix])
    header = struct.unpack("<Q", content[:8])[0] if suffix == ".safetensors" else len(content)
    for _ in range(data.draw(st.integers(0, 3))):
        bit = data.draw(st.integers(0, 8 * header - 1))
        content[bit // 8] ^= 1 << bit % 8
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    backbone = "squeezenet" if suffix == ".safetensors" else "vgg16"
    message = None
    try:
        weights = load_weights(path, backbone)
    except ValueError as error:
        message = str(error)
    if message is None:
        assert all(np.isfinite(array).all() for array in weights.arrays.values())
        assert sum(array.nbytes for array in weights.arrays.values()) <= len(content)
    else:
        assert "\n" not in message
        assert message.startswith(f"weights {path}: ")


def test_the_real_npz(real):
    weights = load_weights(real.parent / "weights" / "squeezenet1_1_imagenet.npz", "squeezenet")
    shapes = {path: array.shape for path, array in weights.arrays.items()}
    assert shapes["conv10/kernel"] == (1, 1, 512, 1000)
    assert len(shapes) == 52
    assert weights.units == CAFFE
