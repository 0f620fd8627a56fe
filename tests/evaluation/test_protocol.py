"""Scores of clips: means over views, whatever the batches, what views share and the devices."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, Mesh

from stpyramid_jax.evaluation.protocol import clip_scores, jitted_forward
from stpyramid_jax.evaluation.report import table, write_report
from stpyramid_jax.input.augment import test_views as views_of
from stpyramid_jax.input.config import InputConfig
from stpyramid_jax.input.pipeline import eval_batches
from stpyramid_jax.input.reading import read_views
from stpyramid_jax.input.sampling import test_samples as samples_of
from stpyramid_jax.input.tfrecord import Video
from stpyramid_jax.models.pyramid import ModelConfig, Outputs, create_model
from stpyramid_jax.training.sharding import AXES, make_mesh


class Brightness(nn.Module):
    """A model whose two scores are the mean of the picture and its negative."""

    def __call__(self, inputs, *, train):
        mean = inputs["rgb"].astype("float32").mean((1, 2, 3))
        return Outputs(jax.numpy.stack([mean, -mean], -1), None, {}, {})


def batches(values, videos, batch_size, parts=8):
    """Views of one constant picture each, padded as the input pads."""
    views = len(videos)
    padded = -(-views // batch_size) * batch_size
    chosen = np.minimum(np.arange(padded), views - 1)
    for start in range(0, padded, batch_size):
        part = chosen[start : start + batch_size].reshape(parts, -1)
        pictures = np.broadcast_to(values[part][..., None, None, None], (*part.shape, 2, 2, 3))
        yield {
            "rgb": pictures.astype(np.uint8),
            "video": videos[part].astype(np.int32),
            "mask": np.arange(start, start + batch_size).reshape(parts, -1) < views,
        }


@pytest.mark.parametrize("batch_size", [8, 16, 24])
def test_scores_are_means_over_views(batch_size):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, 90)
    videos = np.repeat([4, 7, 9], [30, 30, 30])
    step, mesh, done = jitted_forward(Brightness(), make_mesh()), make_mesh(), []
    scores = clip_scores({}, step, batches(values, videos, batch_size), mesh, done.append)
    assert list(scores) == [4, 7, 9]
    for i, video in enumerate(scores):
        mean = values[30 * i : 30 * i + 30].mean()
        np.testing.assert_allclose(scores[video], [mean, -mean], rtol=1e-6)
    assert done[-1] == 90


def test_scores_that_are_no_numbers_are_refused():
    rows = list(batches(np.ones(8), np.repeat([0, 1], 4), 8))
    for row in rows:
        row["rgb"] = np.where(row["video"][..., None, None, None] == 1, np.nan, row["rgb"])
    with pytest.raises(ValueError, match="1 of 2 clips are not finite"):
        clip_scores({}, jitted_forward(Brightness(), make_mesh()), rows, make_mesh())


class Written:
    """Clips of noise whose every image is another."""

    directory, families = None, ("rgb", "flow")
    videos = tuple(Video(f"v{n}", n % 2, "", n + 1, n, 0, {}) for n in (11, 40, 23))

    def rgb(self, video, frame):
        return np.random.default_rng((video, frame)).integers(0, 256, (24, 30, 3), np.uint8)

    def flow(self, video, start, length, family="flow"):
        for number in range(start, start + length):
            rng = np.random.default_rng((video, number, 1))
            yield rng.integers(0, 256, (2, 24, 30), np.uint8)


@pytest.fixture(scope="module")
def pyramid():
    """Model D with weights that tell every snippet, frame and order of snippets from another."""
    config = ModelConfig(
        num_classes=4, backbone="convnet", snippet_length=4, sketch_dims=(16, 16, 32), head_std=0.5
    )
    model = create_model(config)
    images = InputConfig(snippet_length=4, test_tau=4, crop=20, threads=2)
    shapes = {name: np.zeros((1, *shape), np.uint8) for name, shape in images.shapes.items()}
    quick = {"xla_backend_optimization_level": 0}
    init = jax.jit(model.init, static_argnames="train", compiler_options=quick)
    return model, init(jax.random.key(0), shapes, train=False), images


@pytest.fixture(scope="module")
def one_by_one(pyramid):
    """Scores by the public contract of the model: five positions, five crops, nothing shared."""
    model, variables, config = pyramid
    source, found = Written(), {}
    apply = jax.jit(lambda images: model.apply(variables, images, train=False).logits)
    for video, about in enumerate(source.videos):
        samples = samples_of(about.fields, 5, 3, 4, config.test_tau)
        rows = {name: [] for name in config.inputs}
        for sample in samples:
            row = {n: np.empty((5, *s), np.uint8) for n, s in config.shapes.items()}
            boxes = functools.partial(views_of, scale=config.test_scale, crops=5)
            read_views(source, video, sample, config, boxes, row)
            for name, images in row.items():
                rows[name].append(images)
        batch = {name: np.concatenate(images) for name, images in rows.items()}
        found[video] = np.asarray(apply(batch), np.float64).mean(axis=0)
    return found


@pytest.mark.parametrize(("batch_size", "parts"), [(1, 1), (3, 1), (7, 1), (64, 1), (64, 8)])
def test_sharing_and_batches_do_not_change_scores(batch_size, parts, pyramid, one_by_one):
    """Of five positions and five crops, on one device and on eight."""
    model, variables, config = pyramid
    devices = np.array(jax.devices()[:parts]).reshape(parts, 1)
    mesh = Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 2)
    found = eval_batches(Written(), np.arange(3), config, 5, 5, batch_size, parts=parts)
    scores = clip_scores(variables, jitted_forward(model, mesh), found, mesh)
    assert scores.keys() == one_by_one.keys()
    spread = np.ptp(list(one_by_one.values()), axis=0).min()
    assert spread > 1e-3  # clips differ
    for video, of_clip in one_by_one.items():
        np.testing.assert_allclose(scores[video], of_clip, atol=2e-4 * spread)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("snippets", (2, 4, 2)),  # T is 3
        ("snippets", (3, 4, 3)),
        ("snippets", (2, 5, 3)),
        ("flow", (3, 9, 20, 20, 8)),
        ("flow", (8, 3, 20, 20, 8)),
        ("rgb", (7, 20, 20, 3)),
    ],
)
def test_shared_snippets_that_do_not_fit_are_refused(name, shape, pyramid):
    model, variables, _ = pyramid
    shapes = {"rgb": (8, 20, 20, 3), "flow": (2, 9, 20, 20, 8), "snippets": (2, 4, 3)}

    def apply(shapes):
        inputs = {name: np.zeros(shape, np.uint8) for name, shape in shapes.items()}
        return jax.eval_shape(lambda x: model.apply(variables, x, train=False), inputs)

    assert apply(shapes).logits.shape == (8, 4)
    with pytest.raises(ValueError, match="the model takes"):
        apply(shapes | {name: shape})


def test_the_report_holds_what_it_says(tmp_path):
    scores = np.array([[2.0, 1, 0], [0, 2, 1], [3, 2, 1], [0, 0, 1]])
    labels = np.array([0, 1, 1, 2])
    names = ["a", "b", "c", "d"]
    protocol = {"dataset": "toy", "split": "split1", "protocol": "1 x 1", "step": 5}
    protocol |= {"crop": 8, "test_tau": 5}
    summary = write_report(tmp_path, scores, labels, names, ["Hop", "Run", "Sit"], protocol)
    assert summary["num_clips"] == 4
    assert summary["top1"] == 0.75
    assert summary["mean_class_accuracy"] == pytest.approx(2.5 / 3)
    rows = (tmp_path / "per_class.csv").read_text().splitlines()
    assert rows[2] == "Run,2,1,0.5000,Hop"
    with np.load(tmp_path / "scores.npz") as saved:
        np.testing.assert_array_equal(saved["scores"], scores)
        assert saved["names"].tolist() == names
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    assert "mean class accuracy 83.3%" in table(tmp_path)
