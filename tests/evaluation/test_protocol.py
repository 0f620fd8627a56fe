"""Scores of clips: means over positions and crops, whatever the batches are."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from stpyramid_jax.evaluation.protocol import clip_scores, jitted_forward
from stpyramid_jax.evaluation.report import table, write_report
from stpyramid_jax.models.pyramid import Outputs
from stpyramid_jax.training.sharding import make_mesh


class Brightness(nn.Module):
    """A model whose two scores are the mean of the picture and its negative."""

    def __call__(self, inputs, *, train):
        mean = inputs["rgb"].astype("float32").mean((1, 2, 3))
        return Outputs(jax.numpy.stack([mean, -mean], -1), None, {})


def batches(values, videos, crops, batch_size):
    """Rows (video, position) with one constant picture per crop, padded as the input pads."""
    rows = len(videos)
    padded = -(-rows // batch_size) * batch_size
    chosen = np.minimum(np.arange(padded), rows - 1)
    for start in range(0, padded, batch_size):
        part = chosen[start : start + batch_size]
        pictures = np.broadcast_to(
            values[part].reshape(-1, crops, 1, 1, 1), (len(part), crops, 2, 2, 3)
        )
        yield {
            "rgb": pictures.astype(np.uint8),
            "video": videos[part].astype(np.int32),
            "mask": np.arange(start, start + batch_size) < rows,
        }


@pytest.mark.parametrize("batch_size", [8, 16, 24])
def test_scores_are_means_over_positions_and_crops(batch_size):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (18, 5))
    videos = np.repeat([4, 7, 9], [6, 6, 6])
    step, mesh = jitted_forward(Brightness(), make_mesh()), make_mesh()
    scores = clip_scores({}, step, batches(values, videos, 5, batch_size), mesh)
    assert list(scores) == [4, 7, 9]
    for i, video in enumerate(scores):
        mean = values[6 * i : 6 * i + 6].mean()
        np.testing.assert_allclose(scores[video], [mean, -mean], rtol=1e-6)


def test_scores_that_are_no_numbers_are_refused():
    rows = list(batches(np.ones((8, 1)), np.repeat([0, 1], 4), 1, 8))
    for row in rows:
        row["rgb"] = np.where(row["video"][:, None, None, None, None] == 1, np.nan, row["rgb"])
    with pytest.raises(ValueError, match="1 of 2 clips are not finite"):
        clip_scores({}, jitted_forward(Brightness(), make_mesh()), rows, make_mesh())


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
