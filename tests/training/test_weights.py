"""A stream of one run starts another, and goes out to PyTorch."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from stpyramid_jax.experiment import build_experiment, default_config
from stpyramid_jax.models.pretrained import load_weights, weights_of
from stpyramid_jax.models.pyramid import named_model
from stpyramid_jax.training.checkpoint import Checkpoints
from stpyramid_jax.training.history import History, Seen
from stpyramid_jax.training.state import init_state
from stpyramid_jax.training.weights import (
    check_frozen,
    export_weights,
    read_weights,
    stream_variables,
    with_weights,
)

DATASET = {"name": "none", "digest": "", "classes": ["a", "b"], "size": [40, 30], "flow": "dis"}


def experiment_of(model, backbone="convnet", **fields):
    config = default_config()
    config.data.dir = "none"
    config.input.crop = 32
    config.optimizer.learning_rate = 0.1
    config.training.update(steps=1, batch_size=1)
    config.model.update(named_model(model), sketch_dims=(8, 8, 8), backbone=backbone, **fields)
    return build_experiment(config.to_dict(), num_classes=2)


def trained(workdir, experiment, seed):
    """A workdir with a checkpoint whose every array is off its initial value."""
    state = jax.jit(lambda key: init_state(experiment, key))(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    noisy = jax.tree.map(
        lambda x: x + rng.uniform(0.1, 0.2, x.shape).astype(np.float32), state.params
    )
    collections = {
        name: tree if name == "sketch" else jax.tree.map(lambda x: 1.25 * x, tree)
        for name, tree in state.collections.items()
    }
    state = state.replace(params=noisy, collections=collections, step=jax.numpy.int32(3))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(state, History(seen=(Seen("none", "", "split1", (workdir.name,)),)))
    record = dataclasses.asdict(experiment) | {"dataset": DATASET}
    (workdir / "config.json").write_text(json.dumps(record))
    return state


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
def test_streams_trained_alone_start_the_pyramid(tmp_path, capsys):
    """Each stream with its statistics and units, bit for bit; all else as it was drawn."""
    (tmp_path / "rgb").mkdir()
    (tmp_path / "flow").mkdir()
    rgb = trained(tmp_path / "rgb", experiment_of("spatial"), seed=1)
    flow = trained(tmp_path / "flow", experiment_of("temporal"), seed=2)
    experiment = experiment_of("D")
    fresh = jax.jit(lambda key: init_state(experiment, key))(jax.random.key(3))
    spec = f"spatial={tmp_path / 'rgb'},temporal={tmp_path / 'flow'}"
    weights, seen = read_weights(spec, experiment.model)
    assert [one.clips for one in seen] == [("rgb",), ("flow",)]
    state = with_weights(fresh, weights)
    for stream, name, run in (("spatial", "rgb", rgb), ("temporal", "flow", flow)):
        same(state.params[stream], run.params[stream])
        same(state.collections["batch_stats"][stream], run.collections["batch_stats"][stream])
        same(state.collections["units"][name], run.collections["units"][name])
    for part in ("head", "attention"):
        same(state.params[part], fresh.params[part])
    same(state.collections["sketch"], fresh.collections["sketch"])
    assert "weights: spatial: 20 arrays loaded from" in capsys.readouterr().err


def test_a_run_without_the_stream_or_of_another_backbone_is_refused(tmp_path):
    trained(tmp_path, experiment_of("spatial"), seed=1)
    with pytest.raises(ValueError, match=r"has no temporal stream; .*spatial="):
        read_weights(str(tmp_path), experiment_of("D").model)
    with pytest.raises(ValueError, match="of convnet; the model's backbone is squeezenet"):
        read_weights(f"spatial={tmp_path}", experiment_of("D", "squeezenet").model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"config.json: no such file"):
        read_weights(str(tmp_path / "empty"), experiment_of("D").model)


@pytest.mark.slow
def test_streams_go_out_with_their_units_and_come_back(tmp_path):
    state = trained(tmp_path, experiment_of("B", "squeezenet"), seed=1)
    paths = export_weights(tmp_path)
    assert [path.name for path in paths] == ["spatial.safetensors", "temporal.safetensors"]
    back = load_weights(paths[0], "squeezenet")
    kernel = back.arrays["conv1/kernel"]
    np.testing.assert_array_equal(kernel, state.params["spatial"]["conv1"]["kernel"])
    np.testing.assert_array_equal(
        np.float32(back.units.mean), state.collections["units"]["rgb"]["mean"]
    )


def test_a_backbone_that_pytorch_has_not_is_refused(tmp_path):
    trained(tmp_path, experiment_of("spatial"), seed=1)
    with pytest.raises(ValueError, match="convnet is no network of torchvision"):
        export_weights(tmp_path)


def test_norms_without_statistics_are_not_frozen():
    """A stream with weights may be; one from scratch would keep mean 0 and variance 1 for ever."""
    experiment = experiment_of("A", partial_bn=True)
    params = jax.eval_shape(lambda key: init_state(experiment, key), jax.random.key(0)).params
    with pytest.raises(ValueError, match=r"partial_bn=True freezes .* temporal, which starts from"):
        check_frozen(experiment.model, params, given={"spatial"})
    check_frozen(experiment.model, params, given={"spatial", "temporal"})
    free = experiment_of("A", "squeezenet", partial_bn=True)  # has no norm
    params = jax.eval_shape(lambda key: init_state(free, key), jax.random.key(0)).params
    check_frozen(free.model, params, given=())


def test_a_stream_of_images_starts_one_of_differences(tmp_path, capsys):
    """Cross-modality: the mean over RGB for each of the 3 L channels."""
    rgb = trained(tmp_path, experiment_of("spatial"), seed=1)
    given = weights_of(stream_variables(rgb.variables, "spatial"), "rgb")
    experiment = experiment_of("temporal", motion="rgb_difference", snippet_length=5)
    fresh = jax.jit(lambda key: init_state(experiment, key))(jax.random.key(3))
    state = with_weights(fresh, {"temporal": given})
    kernel = state.params["temporal"]["conv1"]["kernel"]
    mean = np.asarray(rgb.params["spatial"]["conv1"]["kernel"]).mean(2, keepdims=True)
    np.testing.assert_array_equal(kernel, np.repeat(mean, 15, axis=2))
    same(state.collections["units"]["flow"], rgb.collections["units"]["rgb"])
    assert "conv1/kernel averaged over RGB for 15 channels" in capsys.readouterr().err


def test_a_stream_of_warped_flow_starts_from_one_of_flow_and_says_so(tmp_path, capsys):
    flow = trained(tmp_path, experiment_of("temporal"), seed=1)
    experiment = experiment_of("temporal", motion="warped")
    fresh = jax.jit(lambda key: init_state(experiment, key))(jax.random.key(3))
    state = with_weights(fresh, read_weights(str(tmp_path), experiment.model)[0])
    same(state.params["temporal"], flow.params["temporal"])
    line = f"weights: {tmp_path}: its temporal stream was trained on flow, now it sees warped"
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("there", "here"), [("flow", "rgb_difference"), ("rgb_difference", "warped")]
)
def test_fields_and_differences_do_not_start_each_other(there, here, tmp_path):
    """Not even where their kernels have one shape: 2 x 3 channels and 3 x 2."""
    length = {"flow": 3, "warped": 3, "rgb_difference": 2}
    trained(tmp_path, experiment_of("temporal", motion=there, snippet_length=length[there]), seed=1)
    model = experiment_of("D", motion=here, snippet_length=length[here]).model
    with pytest.raises(ValueError, match=f"trained on {there}; the model's motion is {here}"):
        read_weights(f"temporal={tmp_path}", model)
