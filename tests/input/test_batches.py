"""Training batches: aligned, repeatable, resumable; whatever the threads and processes."""

import itertools
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stpyramid_jax.input import pipeline
from stpyramid_jax.input.config import InputConfig
from stpyramid_jax.input.tfrecord import Shards, Video
from tests.input.batches import ALL, CONFIG, Numbers, assert_equal, take


class Places:
    """A source whose every image says in each pixel where the pixel is: (x, y, 0) and (x, y)."""

    directory, families = Path("places"), ("rgb", "flow")

    def __init__(self):
        self.videos = [Video("places", 0, "", 31, 30, 0, {})]
        y, x = np.mgrid[:60, :90].astype(np.uint8)
        self.image, self.field = np.stack([x, y, 0 * x], -1), np.stack([x, y])

    def rgb(self, video, frame):
        return self.image

    def flow(self, video, start, length, family="flow"):
        return np.tile(self.field, (length, 1, 1, 1))


def test_a_sample_is_the_frame_in_the_middle_of_its_snippets():
    config = InputConfig(snippet_length=5, tau=(2, 6), crop=8, flip=False, threads=1)
    for batch in take(10, Numbers([40]), 4, 0, videos=np.zeros(1, int), config=config):
        # Constant images stay constant through any view: one pixel says all.
        frame, fields = batch["rgb"][:, 0, 0, 0], batch["flow"][:, :, 0, 0].astype(int)
        first = fields[:, :, 0] // 2
        tau = np.diff(first, axis=1)
        assert (tau == tau[:, :1]).all()
        assert ((tau >= 2) & (tau <= 6)).all()
        np.testing.assert_array_equal(fields - fields[:, :, :1], np.tile(np.arange(10), (4, 3, 1)))
        np.testing.assert_array_equal(frame, first[:, 0] + (2 * tau[:, 0] + 5) // 2)


def test_one_draw_for_the_frame_and_every_field():
    config = InputConfig(snippet_length=4, tau=(1, 5), crop=24, threads=1)
    flips, boxes = set(), set()
    for batch in take(8, Places(), 8, 0, videos=np.zeros(1, int), config=config):
        for rgb, flow in zip(batch["rgb"].astype(int), batch["flow"].astype(int), strict=True):
            flip = bool(rgb[0, 0, 0] > rgb[0, -1, 0])
            x = 255 - flow[..., 0::2] if flip else flow[..., 0::2]
            assert np.abs(x - rgb[None, ..., :1]).max() <= 1
            assert np.abs(flow[..., 1::2] - rgb[None, ..., 1:2]).max() <= 1
            flips.add(flip)
            boxes.add((*np.sort(rgb[0, [0, -1], 0]), *rgb[[0, -1], 0, 1]))
    assert flips == {False, True}
    assert len(boxes) > 20


def test_the_seed_alone_decides(shards):
    batches = take(6, shards, 3, 1)
    assert_equal(batches, take(6, shards, 3, 1))
    threaded = InputConfig(snippet_length=4, tau=(1, 3), crop=20, threads=4)
    single = InputConfig(snippet_length=4, tau=(1, 3), crop=20, threads=1)
    assert_equal(batches, take(6, shards, 3, 1, config=replace(single, threads=0)))
    assert_equal(batches, take(6, shards, 3, 1, config=threaded))
    assert_equal(batches, take(6, shards, 3, 1, config=single))
    other = take(6, shards, 3, 2)
    assert any((a["video"] != b["video"]).any() for a, b in zip(batches, other, strict=True))


@pytest.fixture(scope="module")
def whole(written):
    """The first 24 samples of seed 1, two epochs and more, in one batch."""
    (batch,) = take(1, Shards(written.directory), 24, 1)
    return batch


@pytest.mark.parametrize(
    ("start", "batch_size", "count"), [(0, 6, 3), (4, 4, 5), (7, 3, 2), (9, 1, 15), (0, 24, 1)]
)
def test_a_sample_hangs_on_seed_and_number_alone(shards, whole, start, batch_size, count):
    """Wherever a run goes on, with whatever batch, after an epoch's end too."""
    batches = take(count, shards, batch_size, 1, start=start)
    for name, array in whole.items():
        taken = np.concatenate([batch[name] for batch in batches])
        np.testing.assert_array_equal(taken, array[start : start + batch_size * count])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_parts_of_processes_in_a_row_are_the_batch(shards, whole, count):
    parts = [
        take(2, shards, 8, 1, start=5, process_index=index, process_count=count)
        for index in range(count)
    ]
    for first, batches in zip((5, 13), zip(*parts, strict=True), strict=True):
        for name, array in whole.items():
            together = np.concatenate([batch[name] for batch in batches])
            np.testing.assert_array_equal(together, array[first : first + 8])


def test_what_lies_before_the_start_is_not_read():
    source = Numbers([30, 31, 32])
    config = InputConfig(snippet_length=4, tau=(1, 3), crop=8, threads=1)
    (late,) = take(1, source, 2, 0, videos=np.arange(3), config=config, start=10**12)
    assert len(source.reads) < 100  # 11 at most a sample, two for the batch and a few ahead
    again = take(1, Numbers([30, 31, 32]), 2, 0, videos=np.arange(3), config=config, start=10**12)
    assert_equal([late], again)


def test_closing_ends_the_threads(shards):
    before = set(threading.enumerate())
    iterator = pipeline.train_iterator(shards, ALL, CONFIG, 4, 0)
    next(iterator)
    started = set(threading.enumerate()) - before
    assert started
    iterator.close()
    for thread in started:
        thread.join(20)
        assert not thread.is_alive()


class Slow(Numbers):
    """One in which the first read of frame 3 fails."""

    failed = False

    def rgb(self, video, frame):
        if video == 3 and not self.failed:
            self.failed = True
            raise OSError("a cable fell out")
        return np.full((10, 12, 3), video, np.uint8)


def test_an_iteration_that_failed_never_mixes_pictures_and_labels():
    """grain drops what failed; the rows behind it would move up."""
    config = replace(CONFIG, streams="spatial")
    batches = pipeline.train_iterator(Slow([9] * 7), ALL, config, 4, seed=0)
    errors = []
    for _ in range(6):
        try:
            batch = next(batches)
        except (OSError, RuntimeError) as error:
            errors.append(str(error))
            continue
        assert batch["rgb"][:, 0, 0, 0].tolist() == batch["video"].tolist()
    batches.close()
    assert "a cable fell out" in errors[0]
    assert "take a new iterator" in errors[1]


def test_memory_of_earlier_batches_leaves_no_trace(shards):
    """Held, dropped and taken again: a batch far on is that of a fresh iterator."""
    batches = pipeline.train_iterator(shards, ALL, CONFIG, 2, seed=0)
    first = next(batches)
    copy = {name: array.copy() for name, array in first.items()}
    late = next(itertools.islice(batches, 20, None))
    batches.close()
    fresh = pipeline.train_iterator(shards, ALL, CONFIG, 2, seed=0, start=42)
    expected = next(fresh)
    fresh.close()
    for name, array in expected.items():
        np.testing.assert_array_equal(late[name], array)
        np.testing.assert_array_equal(first[name], copy[name])


def test_an_epoch_is_every_video_once_in_its_own_order(shards):
    epochs = [batch["video"].tolist() for batch in take(4, shards, 7, 0)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_epochs_draw_anew():
    videos = np.zeros(1, int)
    config = InputConfig(snippet_length=4, tau=(1, 3), crop=8, threads=1)
    frames = [
        b["rgb"][0, 0, 0, 0] for b in take(20, Numbers([60]), 1, 0, videos=videos, config=config)
    ]
    assert len(set(frames)) > 10


def test_the_motion_changes_neither_the_samples_nor_their_views():
    """Frames of a snippet are those that its fields lie between, of the same seed's samples."""
    flow, warped, frames = (
        take(3, Numbers([40, 9]), 4, 5, videos=np.arange(2), config=replace(CONFIG, motion=motion))
        for motion in ("flow", "warped", "rgb_difference")
    )
    assert_equal(flow, warped)
    for fields, differences in zip(flow, frames, strict=True):
        for name in ("rgb", "label", "video"):
            np.testing.assert_array_equal(fields[name], differences[name])
        assert "flow" not in differences
        number = differences["frames"][:, :, :, 0, 0, 0]
        # y of field k is 2 k + 1, mirrored or not.
        np.testing.assert_array_equal(number[:, :, :-1], fields["flow"][:, :, 0, 0, 1::2] // 2)
        np.testing.assert_array_equal(np.diff(number.astype(int)), 1)


@pytest.mark.parametrize(("streams", "kept"), [("spatial", "rgb"), ("temporal", "flow")])
def test_an_unused_stream_is_not_read(streams, kept):
    config = InputConfig(streams=streams, snippet_length=4, tau=(1, 3), crop=8, threads=1)
    source = Numbers([20])
    (batch,) = take(1, source, 2, 0, videos=np.zeros(1, int), config=config)
    assert batch.keys() == {kept, "label", "video"}
    assert {kind for kind, *_ in source.reads} == {kept}
    both = InputConfig(snippet_length=4, tau=(1, 3), crop=8, threads=1)
    (other,) = take(1, Numbers([20]), 2, 0, videos=np.zeros(1, int), config=both)
    np.testing.assert_array_equal(batch[kept], other[kept])


def test_a_damaged_shard_stops_the_iteration_and_is_named(written, tmp_path):
    directory = shutil.copytree(written.directory, tmp_path / "copy")
    path = directory / "tiny-rgb.tfrecord-00001-of-00002"
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    with pytest.raises(ValueError, match=re.escape(f"{path}: clip") + r".* offset \d+"):
        take(7, Shards(directory), 4, 0)
