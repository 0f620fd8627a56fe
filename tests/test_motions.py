"""Motions other than flow, from prepared clips to a trained run, its scores and a prediction."""

import json

import numpy as np
import pytest

from configs import quickstart
from stpyramid_jax.evaluation.predict import predict
from stpyramid_jax.evaluation.protocol import evaluate
from stpyramid_jax.experiment import build_experiment
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.preparation.choices import Choices
from stpyramid_jax.preparation.run import prepare
from stpyramid_jax.training.loop import train


def experiment_of(shards, motion, model="A"):
    config = quickstart.get_config(f"model={model}")
    config.data.dir = str(shards.directory)
    config.input.crop = 32
    config.model.motion = motion
    config.training.update(steps=2, batch_size=8)
    config.evaluation.update(positions=2, crops=1)
    return build_experiment(config.to_dict(), len(shards.classes))


@pytest.fixture(scope="module")
def prepared(sprites, tmp_path_factory):
    """The embedded clips with fields of both families, and with frames alone."""
    folders = {}
    for flow, warped in (("dis", True), ("none", False)):
        folder = tmp_path_factory.mktemp("motions") / flow
        prepare(
            Choices(
                "folder",
                sprites / "sprites",
                folder,
                size=(72, 72),
                flow=flow,
                warped=warped,
                workers=1,
            )
        )
        folders[flow] = Shards(folder)
    return folders


@pytest.mark.slow
@pytest.mark.parametrize(
    ("motion", "flow", "model", "channels"),
    [("warped", "dis", "temporal", 10), ("rgb_difference", "none", "A", 15)],
)
def test_a_run_of_each_motion(motion, flow, model, channels, prepared, sprites, tmp_path):
    shards = prepared[flow]
    experiment = experiment_of(shards, motion, model)
    state = train(experiment, shards, tmp_path)
    assert state.params["temporal"]["conv1"]["kernel"].shape == (3, 3, channels, 16)
    report = evaluate(experiment, shards, tmp_path)
    assert json.loads((report / "summary.json").read_text())["motion"] == motion
    video = sorted((sprites / "sprites" / "test").glob("*/*.avi"))[0]
    with np.load(report / "scores.npz") as saved:
        row = [video.stem in name for name in saved["names"]].index(True)
        scores = np.exp(saved["scores"][row] - saved["scores"][row].max())
        expected = dict(zip(saved["classes"], scores / scores.sum(), strict=True))
    # The shards have gone through JPEG.
    (found,) = predict(tmp_path, str(video))
    assert found.probabilities == pytest.approx(expected, abs=0.02)
    again = train(experiment, shards, tmp_path)  # from its checkpoint
    np.testing.assert_array_equal(
        again.params["temporal"]["conv1"]["kernel"], state.params["temporal"]["conv1"]["kernel"]
    )


def test_a_data_set_without_the_motion_is_refused_before_anything_is_begun(prepared, tmp_path):
    shards = prepared["none"]
    for motion in ("flow", "warped"):
        with pytest.raises(ValueError, match=rf"model\.motion='{motion}': .* has records of rgb"):
            train(experiment_of(shards, motion), shards, tmp_path)
    assert not list(tmp_path.iterdir())
