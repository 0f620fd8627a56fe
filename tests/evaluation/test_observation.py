"""What is observed of a clip is what the model makes of its middle view."""

import dataclasses

import jax
import numpy as np

from configs import quickstart
from stpyramid_jax.evaluation.observation import observe, pictures
from stpyramid_jax.experiment import build_experiment
from stpyramid_jax.input.pipeline import apart, eval_batches
from stpyramid_jax.input.tfrecord import Video
from stpyramid_jax.models.pyramid import create_model
from stpyramid_jax.preparation.sources.flow import BOUND, quantise
from stpyramid_jax.training.sharding import make_mesh


class Noise:
    """Clips of different lengths whose frames and fields are noise of their own."""

    families, directory = ("rgb", "flow"), "noise"
    videos = tuple(Video(f"clip {n}", n % 3, "", n, n - 1, 0, {}) for n in range(9, 31, 2))

    def __init__(self):
        self.parameters = {"flow": {"method": "dis", "bound": BOUND}}

    def rgb(self, video, frame):
        return np.random.default_rng((video, frame)).integers(0, 256, (20, 24, 3), np.uint8)

    def flow(self, video, start, length, family="flow"):
        for number in range(start, start + length):
            yield np.random.default_rng((video, number, 1)).integers(0, 256, (2, 20, 24), np.uint8)


def experiment_of(row, **model):
    config = quickstart.get_config(f"model={row}")
    config.data.dir = ""
    config.input.update(crop=16, test_tau=3, threads=1)
    config.model.update(snippet_length=2, sketch_dims=(32, 32, 32), **model)
    return build_experiment(config.to_dict(), 3)


def middle(experiment, videos):
    """The same views in one batch."""
    (batch,) = eval_batches(Noise(), videos, experiment.input, 1, 1, len(videos))
    views = apart(batch)
    assert views["video"].tolist() == videos.tolist()
    return {name: views[name] for name in experiment.input.inputs}


def seen(row, **model):
    """What is observed, batch by batch, and what the model says of all the views at once."""
    experiment, videos = experiment_of(row, **model), np.array([4, 9, 10, 0, 2, 1, 3, 8, 7, 5, 6])
    views, network = middle(experiment, videos), create_model(experiment.model)
    variables = jax.jit(lambda: network.init(jax.random.key(0), views, train=False))()
    expected = jax.jit(lambda v: network.apply(v, views, train=False))(variables)
    settings = dataclasses.replace(experiment.evaluation, batch_size=8)
    experiment = dataclasses.replace(experiment, evaluation=settings)
    return observe(experiment, Noise(), variables, videos, make_mesh()), expected, views


def alike(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_scores_features_and_attention_are_those_of_the_middle_view():
    observations, expected, views = seen("D")
    alike(observations.scores, expected.logits)
    assert set(observations.features) == {"spatial", "temporal", "motion", "attended", "fused"}
    for name, features in observations.features.items():
        assert features.dtype == np.float32
        alike(features, expected.features[name])
    assert observations.attention is not None
    alike(observations.attention, expected.attention)
    for clip, frame in enumerate(views["rgb"]):
        found = observations.look(clip)
        assert list(found) == ["frame", "motion", "attention"]
        np.testing.assert_array_equal(found["frame"], frame)
        assert all(picture.shape == (16, 16, 3) for picture in found.values())


def test_a_model_without_levels_has_neither_attention_nor_features_after_them():
    observations, expected, _ = seen("A", motion="rgb_difference")
    alike(observations.scores, expected.logits)
    assert set(observations.features) == {"spatial", "temporal"}
    assert observations.attention is None
    assert list(observations.look(0)) == ["frame", "motion"]


def test_motion_is_the_mean_flow_of_the_middle_snippet():
    x, y = quantise(np.array([5.0, 0.0])), quantise(np.array([0.0, 5.0]))
    flow = np.zeros((3, 4, 6, 4), np.uint8)
    flow[0] = flow[2] = 17
    flow[1, :, :3] = [x[0], x[1], x[0], x[1]]  # to the right on the left half
    flow[1, :, 3:] = [y[0], y[1], y[0], y[1]]  # down on the right half
    motion = pictures({"flow": flow}, None, BOUND)["motion"].astype(int)
    np.testing.assert_allclose(motion[:, :3], np.broadcast_to([255, 0, 0], (4, 3, 3)), atol=8)
    np.testing.assert_allclose(motion[:, 3:], np.broadcast_to([255, 234, 0], (4, 3, 3)), atol=8)
    flow[1] = quantise(np.zeros(1))
    still = pictures({"flow": flow}, None, BOUND)["motion"]
    assert still.min() > 220  # the rounding of no motion is not blown up to full colour


def test_differences_are_shown_around_grey():
    frames = np.zeros((1, 3, 2, 2, 3), np.uint8)
    frames[0, 1], frames[0, 2] = 100, 255
    motion = pictures({"frames": frames}, None, None)["motion"]
    assert motion.min() == motion.max() == 205  # of the last two of three
    assert pictures({"frames": frames[:, ::-1]}, None, None)["motion"].max() == 77


def test_attention_is_bright_where_the_model_looks():
    frame = np.full((64, 64, 3), 100, np.uint8)
    attention = np.zeros((4, 4), np.float32)
    attention[3, 0] = 1
    found = pictures({"rgb": frame}, attention, None)
    change = np.abs(found["attention"].astype(int) - frame).sum(axis=-1)
    assert np.unravel_index(change.argmax(), change.shape)[0] > 48
    assert change[56, 8] > 100
    assert change[8, 56] == 0
    np.testing.assert_array_equal(found["frame"], frame)
