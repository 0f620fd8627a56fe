"""ImageNet weights reach both streams or none, are reported, and are never executed."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stpyramid_jax.models.pretrained import cross_modality, init_backbones, load_arrays
from stpyramid_jax.models.pyramid import ModelConfig, create_model, named_model

RNG = np.random.default_rng(0)


def params_of():
    """Of a tiny pyramid: two layers in each stream, and a head."""

    def stream(channels):
        return {
            "conv1": {"kernel": jnp.zeros((3, 3, channels, 4)), "bias": jnp.zeros(4)},
            "fire": {"squeeze": {"kernel": jnp.zeros((1, 1, 4, 2)), "bias": jnp.zeros(2)}},
        }

    return {"spatial": stream(3), "temporal": stream(10), "head": {"kernel": jnp.ones((2, 5))}}


def arrays_of():
    shapes = {
        "conv1/kernel": (3, 3, 3, 4),
        "conv1/bias": (4,),
        "fire/squeeze/kernel": (1, 1, 4, 2),
        "fire/squeeze/bias": (2,),
        "conv10/kernel": (1, 1, 2, 1000),
    }
    return {name: RNG.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_both_streams_are_loaded_and_reported():
    before, arrays = params_of(), arrays_of()
    after, report = init_backbones(before, arrays)
    assert report == [
        "spatial: 4 arrays loaded",
        "temporal: 4 arrays loaded, conv1/kernel averaged over RGB",
        "not used: conv10/kernel",
    ]
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, before)
    np.testing.assert_array_equal(after["spatial"]["conv1"]["kernel"], arrays["conv1/kernel"])
    for stream in ("spatial", "temporal"):
        loaded = after[stream]
        np.testing.assert_array_equal(loaded["conv1"]["bias"], arrays["conv1/bias"])
        kernel = loaded["fire"]["squeeze"]["kernel"]
        np.testing.assert_array_equal(kernel, arrays["fire/squeeze/kernel"])
    assert after["head"]["kernel"].all()
    assert not before["spatial"]["conv1"]["kernel"].any()


def test_cross_modality_is_the_mean_over_rgb_without_rescaling():
    """Ten grey channels answer 10/3 as strongly as three: nothing makes up for their number."""
    kernel = arrays_of()["conv1/kernel"]
    adapted = cross_modality(kernel, 10)
    assert adapted.shape == (3, 3, 10, 4)
    for channel in range(10):
        np.testing.assert_allclose(adapted[:, :, channel], kernel.mean(2), atol=1e-6)
    np.testing.assert_allclose(adapted.sum(2), kernel.sum(2) * 10 / 3, rtol=1e-4, atol=1e-5)


def test_a_stream_that_the_model_lacks_is_left_out():
    params = params_of()
    del params["temporal"]
    after, report = init_backbones(params, arrays_of())
    assert set(after) == {"spatial", "head"}
    assert report[0].startswith("spatial")
    assert "temporal" not in " ".join(report)


def test_everything_wrong_is_listed_at_once_and_nothing_is_loaded():
    params, arrays = params_of(), arrays_of()
    del arrays["conv1/bias"]
    arrays["fire/squeeze/bias"] = np.zeros(3, np.float32)
    arrays["conv1/kernel"] = np.ones((5, 5, 3, 4), np.float32)
    with pytest.raises(ValueError, match="nothing was loaded") as error:
        init_backbones(params, arrays)
    for line in (
        "spatial/conv1/bias: missing, the model has (4,)",
        "temporal/conv1/bias: missing, the model has (4,)",
        "spatial/fire/squeeze/bias: (3,), the model has (2,)",
        "temporal/fire/squeeze/bias: (3,), the model has (2,)",
        "spatial/conv1/kernel: (5, 5, 3, 4), the model has (3, 3, 3, 4)",
        "temporal/conv1/kernel: (5, 5, 3, 4), the model has (3, 3, 10, 4)",
    ):
        assert line in str(error.value)
    assert not any(leaf.any() for leaf in jax.tree.leaves(params["spatial"]))


def test_arrays_come_back_from_their_file(tmp_path):
    arrays = arrays_of()
    np.savez(tmp_path / "weights.npz", **arrays)
    loaded = load_arrays(tmp_path / "weights.npz")
    assert loaded.keys() == arrays.keys()
    for name in arrays:
        np.testing.assert_array_equal(loaded[name], arrays[name])


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def no_file(path):
    pass


def empty(path):
    path.write_bytes(b"")


def truncated(path):
    np.savez(path, **arrays_of())
    path.write_bytes(path.read_bytes()[:-40])


def flipped(path):
    np.savez(path, **arrays_of())
    content = bytearray(path.read_bytes())
    content[300] ^= 0xFF
    path.write_bytes(content)


def one_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def pickled(path):
    path.write_bytes(pickle.dumps(Trap(path.parent / "executed")))


def pickled_member(path):
    np.savez(path, layer=np.array([Trap(path.parent / "executed")], dtype=object))


@pytest.mark.parametrize(
    "write", [no_file, empty, truncated, flipped, one_array, pickled, pickled_member]
)
def test_a_file_that_is_not_plain_arrays_is_refused(tmp_path, write):
    path = tmp_path / "weights.npz"
    write(path)
    with pytest.raises(ValueError, match=r"weights .*weights\.npz: n") as error:
        load_arrays(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()


def test_real_weights_fit_both_streams_whole(real):
    arrays = load_arrays(real.parent / "weights" / "squeezenet1_1_imagenet.npz")
    config = ModelConfig(num_classes=10, **named_model("D"))
    inputs = {"rgb": jnp.zeros((1, 64, 64, 3)), "flow": jnp.zeros((1, 3, 64, 64, 20))}
    model = create_model(config)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))["params"]
    params, report = init_backbones(shapes, arrays)
    assert report == [
        "spatial: 50 arrays loaded",
        "temporal: 50 arrays loaded, conv1/kernel averaged over RGB",
        "not used: conv10/bias, conv10/kernel",
    ]
    streams = jax.tree.leaves([params["spatial"], params["temporal"]])
    assert len(streams) == 100
    assert all(isinstance(leaf, np.ndarray) for leaf in streams)
