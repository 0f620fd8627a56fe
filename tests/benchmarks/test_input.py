"""The benchmark of the input: all read the same images, and what it counts is what is read."""

import json
from itertools import cycle
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from stpyramid_jax.input.augment import View
from stpyramid_jax.input.config import InputConfig
from stpyramid_jax.input.pipeline import train_reader
from stpyramid_jax.input.tfrecord import Shards
from tests.conftest import load

CONFIG = InputConfig(crop=24, threads=1)


@pytest.fixture(scope="module")
def benchmark():
    load("benchmarks/comparison.py")
    return load("benchmarks/input.py")


@pytest.fixture
def shards(sprites):
    return Shards(sprites / "shards")


def test_decoding_alone_has_the_images_of_the_samples_once(benchmark, shards):
    videos = np.arange(3)
    read = train_reader(shards, videos, CONFIG, 0)
    images, count = benchmark.read_alone(read, CONFIG, 5)
    assert len(images) == 5
    for sample in images:
        shapes = [cv2.imdecode(*image).shape for image in sample]
        assert shapes[0] == (72, 72, 3)
        assert set(shapes[1:]) == {(144, 72)}
        assert 12 <= len(shapes[1:]) <= 30  # fields of windows with tau from 1 to 10
    used = sum(len(data) for sample in images for data, _ in sample)
    if benchmark.bytes_read():
        assert used < count < 1.5 * used  # their framing weighs more on so small images


def test_loose_files_are_the_frames_and_fields_of_the_shards(benchmark, shards, tmp_path):
    torch_input = pytest.importorskip("torch") and load("benchmarks/torch_input.py")
    benchmark.write_files(shards, np.array([2]), tmp_path)
    sample = torch_input.Sample(tmp_path / "2", 3, (4, 5, 4))
    (field,) = shards.flow(2, 4, 1)
    for flip in (False, True):
        view = View(8, 4, 60, 60, flip)
        lean, whole = (
            torch_input.LooseFiles([sample], 60, lean, lambda _, view=view: view)[0]
            for lean in (True, False)
        )
        image = shards.rgb(2, 3)[8:68, 4:64].astype(int)
        planes = field[:, 8:68, 4:64].astype(int)
        if flip:
            image, planes = image[:, ::-1], planes[..., ::-1] * [[[-1]], [[1]]] + [[[255]], [[0]]]
        assert lean["flow"].shape == (6, 60, 60)
        # Written once more as JPEG.
        assert np.abs(lean["rgb"].permute(1, 2, 0).numpy() - image).mean() < 3
        assert np.abs(lean["flow"][:2].numpy() - planes).mean() < 2
        np.testing.assert_array_equal(lean["flow"][:2], lean["flow"][4:])
        for name in ("rgb", "flow"):
            floats = (lean[name].float() - torch_input.MEAN) / torch_input.SCALE
            np.testing.assert_array_equal(whole[name], floats)


def test_a_rate_leaves_out_what_was_ready(benchmark, monkeypatch):
    """The first batches come at once, the others take a tenth of a second each."""
    clock = SimpleNamespace(now=0.0)

    def batches():
        for number in cycle(range(benchmark.AHEAD + 5)):
            clock.now += 0.1 if number >= benchmark.AHEAD else 0
            yield number

    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(benchmark.time, "sleep", lambda _: None)
    endless = batches()
    for _ in range(2):
        assert benchmark.rate(endless, 5) == pytest.approx(benchmark.BATCH / 0.1)


@pytest.mark.slow
def test_the_input_is_compared_and_written(sprites, tmp_path, run):
    pytest.importorskip("torch")
    path = tmp_path / "input.json"
    run("benchmarks/input.py", "--quick", "--repetitions=1", f"--json={path}")
    rows = json.loads(path.read_text())["rows"]
    assert {row["case"].split(",")[0] for row in rows} == {"RGB", "flow", "pyramid"}
    read = [row for row in rows if row["unit"] == "KB"]
    assert len(read) == 3
    assert all(1 / 1.1 < row["ratio"] <= 1 for row in read)
