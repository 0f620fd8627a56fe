"""Batches: aligned, repeatable, resumable, complete; whatever the threads and processes."""

import itertools
import re
import shutil
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from stpyramid_jax.input import augment, pipeline, sampling
from stpyramid_jax.input.config import InputConfig
from stpyramid_jax.input.pipeline import apart
from stpyramid_jax.input.tfrecord import Shards, Video

CONFIG = InputConfig(snippet_length=4, tau=(1, 3), test_tau=2, crop=20, threads=2)
ALL = np.arange(7)


class Numbers:
    """A source of clips whose images say in every pixel which frame or field they are.

    Frame t is t; field k is x = 2 k, y = 2 k + 1. `reads` lists what was asked.
    """

    directory, families = Path("numbers"), ("rgb", "flow", "warped")

    def __init__(self, fields):
        self.videos = [Video(f"n{n}", 0, "", n + 1, n, 0, {}) for n in fields]
        self.reads = []

    def rgb(self, video, frame):
        self.reads.append(("rgb", video, frame))
        return np.full((10, 12, 3), frame, np.uint8)

    def flow(self, video, start, length, family="flow"):
        self.reads += [(family, video, k) for k in range(start, start + length)]
        numbers = np.arange(2 * start, 2 * (start + length), dtype=np.uint8)
        return np.tile(numbers.reshape(length, 2, 1, 1), (1, 1, 10, 12))


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


def take(count, source, *args, videos=ALL, config=CONFIG, **kwargs):
    iterator = pipeline.train_iterator(source, videos, config, *args, **kwargs)
    batches = list(itertools.islice(iterator, count))
    iterator.close()
    return batches


def assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def test_batches_have_the_promised_shapes(shards):
    (batch,) = take(1, shards, 4, 0)
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "rgb": ((4, 20, 20, 3), "uint8"),
        "flow": ((4, 3, 20, 20, 8), "uint8"),
        "label": ((4,), "int32"),
        "video": ((4,), "int32"),
    }
    assert batch["label"].tolist() == [shards.videos[v].label for v in batch["video"]]
    batch = next(pipeline.eval_batches(shards, ALL, CONFIG, 2, 5, 8, parts=2, snippets=10))
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "rgb": ((2, 4, 20, 20, 3), "uint8"),
        "flow": ((2, 10, 20, 20, 8), "uint8"),
        "snippets": ((2, 4, 3), "int32"),
        "label": ((2, 4), "int32"),
        "video": ((2, 4), "int32"),
        "mask": ((2, 4), "bool"),
    }
    assert {name: (array.shape, array.dtype.name) for name, array in apart(batch).items()} == {
        "rgb": ((8, 20, 20, 3), "uint8"),
        "flow": ((8, 3, 20, 20, 8), "uint8"),
        "label": ((8,), "int32"),
        "video": ((8,), "int32"),
        "mask": ((8,), "bool"),
    }


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


@pytest.mark.parametrize(("positions", "batch_size"), [(1, 1), (4, 6), (4, 200)])
@pytest.mark.parametrize("length", [1, 4])
def test_each_image_is_read_once_for_all_views(length, positions, batch_size):
    config = InputConfig(snippet_length=length, test_tau=3, crop=8, threads=4)
    source = Numbers([30, 5, 1])
    batches = pipeline.eval_batches(source, np.arange(3), config, positions, 10, batch_size)
    views = [apart(batch) for batch in batches]
    assert sum(int(batch["mask"].sum()) for batch in views) == 3 * positions * 10
    assert max(Counter(source.reads).values()) == 1
    assert {kind for kind, *_ in source.reads} == {"rgb", "flow"}
    # Of the long clip exactly the fields in its snippets: with L = 1 not those between.
    of_first = [batch["flow"][batch["mask"] & (batch["video"] == 0)] for batch in views]
    # Mirrored or not, y of field k is 2 k + 1.
    wanted = {int(k) // 2 for flow in of_first for k in flow[:, :, 0, 0, 1::2].ravel()}
    assert {k for kind, video, k in source.reads if (kind, video) == ("flow", 0)} == wanted


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


def test_parts_of_an_evaluation_in_a_row_are_its_batches(shards):
    """What only fills up the last batch too."""
    whole = list(pipeline.eval_batches(shards, ALL, CONFIG, 2, 1, 8, parts=4))
    halves = [
        list(pipeline.eval_batches(shards, ALL, CONFIG, 2, 1, 8, p, 2, parts=2)) for p in range(2)
    ]
    assert len(whole) > 1
    together = [
        {name: np.concatenate([half[name] for half in both]) for name in both[0]}
        for both in zip(*halves, strict=True)
    ]
    assert_equal(whole, together)
    assert sum(int(batch["mask"].sum()) for batch in whole) == 14
    assert not whole[-1]["mask"][-1].any()
    assert not whole[-1]["rgb"][-1].any()
    assert not whole[-1]["flow"][-1].any()


@pytest.mark.parametrize("streams", ["spatial", "temporal", "both"])
@pytest.mark.parametrize("motion", ["flow", "rgb_difference"])
def test_views_hang_neither_on_the_batch_nor_on_its_parts(shards, streams, motion):
    """A batch of one view shares nothing."""
    config = replace(CONFIG, streams=streams, motion=motion, crop=8)

    def views(batch_size, **more):
        batches = pipeline.eval_batches(shards, ALL, config, 3, 5, batch_size, **more)
        found = [apart(batch) for batch in batches]
        whole = {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}
        return {name: array[whole["mask"]] for name, array in whole.items()}

    alone = views(1)
    assert alone.keys() == {*config.inputs, "label", "video", "mask"}
    assert alone["video"].tolist() == np.repeat(ALL, 15).tolist()
    for batch_size, more in [(7, {}), (30, {"parts": 3}), (40, {"snippets": 5}), (200, {})]:
        assert_equal([views(batch_size, **more)], [alone])


def test_snippets_that_positions_share_are_there_once():
    """Twenty positions 2 apart, tau 2, leave 22 snippets of 60, for each crop."""
    source, config = Numbers([46]), replace(CONFIG, crop=8)
    (batch,) = pipeline.eval_batches(source, ALL[:1], config, 20, 3, 60)
    assert batch["mask"].sum() == 60
    first = batch["flow"][0, :, 0, 0, 0]
    assert len(np.unique(batch["snippets"])) == 66
    assert Counter(first[:66].tolist()) == {4 * k: 3 for k in range(22)}


@pytest.mark.parametrize(("positions", "batch_size", "count"), [(3, 4, 1), (5, 8, 2), (1, 2, 2)])
def test_evaluation_covers_every_position_once(positions, batch_size, count):
    source = Numbers([40, 9, 1, 25, 3])
    config = InputConfig(snippet_length=4, test_tau=2, crop=8, threads=3)
    expected = Counter()
    for video, about in enumerate(source.videos):
        samples = sampling.test_samples(about.fields, positions, 3, 4, 2)
        expected.update((video, sample.t) for sample in samples)
    found, lengths = Counter(), []
    for index in range(count):
        batches = list(
            pipeline.eval_batches(
                source, np.arange(5), config, positions, 1, batch_size, index, count
            )
        )
        lengths.append(len(batches))
        for batch in batches:
            batch = apart(batch)
            assert {len(array) for array in batch.values()} == {batch_size // count}
            frames = batch["rgb"][:, 0, 0, 0]
            rows = zip(batch["video"].tolist(), frames.tolist(), batch["mask"], strict=True)
            found.update((video, t) for video, t, real in rows if real)
    assert found == expected
    assert len(set(lengths)) == 1


@pytest.mark.parametrize("streams", ["temporal", "both"])
def test_frames_of_differences_are_read_once_and_no_flow(streams):
    """Neighbouring snippets overlap, and the frame of the other stream is mostly among theirs."""
    for length in (1, 4):
        config = replace(CONFIG, motion="rgb_difference", streams=streams, snippet_length=length)
        source = Numbers([30, 5, 1])
        views = [
            apart(batch) for batch in pipeline.eval_batches(source, np.arange(3), config, 1, 10, 10)
        ]
        assert max(Counter(source.reads).values()) == 1
        seen = {
            int(k)
            for batch in views
            for name in config.inputs
            for k in np.unique(batch[name][batch["mask"] & (batch["video"] == 0)])
        }
        assert {read for read in source.reads if read[1] == 0} == {("rgb", 0, k) for k in seen}


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


def test_frames_are_the_naive_ones(write_shards, tmp_path):
    """Every crop of every position, also of clips shorter than a snippet; mirrors do not negate."""
    write_shards(tmp_path, [16, 4, 2], families=("rgb",))
    shards = Shards(tmp_path)
    config = replace(CONFIG, motion="rgb_difference", snippets=2)
    (batch,) = pipeline.eval_batches(shards, np.arange(3), config, 2, 10, 60, snippets=120)
    batch = apart(batch)
    assert batch["frames"].shape == (60, 2, 5, 20, 20, 3)
    assert batch["frames"].dtype == np.uint8
    # By video and position, then crop.
    seen = batch["frames"].reshape(3, 10, 2, 2, 5, 20, 20, 3).swapaxes(1, 2)
    views = augment.test_views((48, 64), 0.875, 10)
    for video, position in itertools.product(range(3), range(2)):
        last = shards.videos[video].frames - 1
        sample = sampling.test_samples(last, 2, 2, 4, 2)[position]
        for (crop, view), snippet, i in itertools.product(enumerate(views), range(2), range(5)):
            number = min(max(sample.starts[snippet] + i, 0), last)
            box = shards.rgb(video, number)[view.y :, view.x :][: view.height, : view.width]
            image = cv2.resize(box, (20, 20))
            image = image[:, ::-1] if view.flip else image
            np.testing.assert_array_equal(seen[video, position, crop, snippet, i], image)
    differences = np.diff(seen.astype(int), axis=4)
    np.testing.assert_array_equal(differences[:, :, 5:], differences[:, :, :5, ..., ::-1, :])
    assert differences.any()


def test_fields_without_the_motion_of_the_camera_come_from_their_family(write_shards, tmp_path):
    write_shards(tmp_path, [16, 12], families=("rgb", "flow", "warped"))
    shards, config = Shards(tmp_path), replace(CONFIG, crop=42)  # the side of the box
    flow, warped = (
        apart(next(pipeline.eval_batches(shards, np.arange(2), of, 1, 1, 2)))["flow"]
        for of in (config, replace(config, motion="warped"))
    )
    for video in range(2):
        (sample,) = sampling.test_samples(shards.videos[video].fields, 1, 3, 4, 2)
        for family, seen in (("flow", flow), ("warped", warped)):
            field = next(shards.flow(video, sample.starts[1] + 3, 1, family))
            cut = field[:, 3:45, 11:53]  # the centre, 42 of 48 x 64
            np.testing.assert_array_equal(seen[video, 1, :, :, 6:8], np.moveaxis(cut, 0, -1))
    assert (flow != warped).any()


@pytest.mark.parametrize(
    ("families", "motion", "line"),
    [
        (
            ("rgb", "flow"),
            "warped",
            r"model\.motion='warped': {} has records of rgb and flow only; prepare it with "
            r"--warped into another folder, or choose another model\.motion",
        ),
        (
            ("rgb",),
            "flow",
            r"model\.motion='flow': {} has records of rgb only; prepare it with --flow=tvl1",
        ),
    ],
)
def test_a_data_set_without_the_motion_is_refused(families, motion, line, write_shards, tmp_path):
    write_shards(tmp_path, [9, 9], families=families)
    shards, config = Shards(tmp_path), replace(CONFIG, motion=motion)
    line = line.format(re.escape(str(tmp_path)))
    with pytest.raises(ValueError, match=line) as refused:
        pipeline.train_iterator(shards, np.arange(2), config, 2, 0)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=line):
        pipeline.eval_batches(shards, np.arange(2), config, 1, 1, 2)
    spatial = replace(config, streams="spatial")  # does not need it
    assert next(pipeline.eval_batches(shards, np.arange(2), spatial, 1, 1, 2))["mask"].all()


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


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"crop": 0}, r"input\.crop=0: at least 1"),
        ({"threads": -1}, r"input\.threads=-1: at least 0"),
        ({"tau": (0, 3)}, r"input\.tau=\(0, 3\): \(smallest, largest\)"),
        ({"tau": (4, 3)}, r"input\.tau=\(4, 3\)"),
        ({"scales": ()}, r"input\.scales=\(\).* in \(0, 1\]"),
        ({"test_scale": 1.5}, r"input\.test_scale=1.5: in \(0, 1\]"),
    ],
)
def test_impossible_settings_are_refused(wrong, line):
    with pytest.raises(ValueError, match=line):
        InputConfig(**wrong)


def test_impossible_requests_are_refused(shards):
    with pytest.raises(ValueError, match="no videos"):
        take(1, shards, 4, 0, videos=ALL[:0])
    with pytest.raises(ValueError, match=r"batch_size=5: .* multiple of the 2 processes"):
        take(1, shards, 5, 0, process_count=2)
    with pytest.raises(ValueError, match="video 'n0' has one frame"):
        take(1, Numbers([3, 0]), 2, 0, videos=np.arange(2))
    with pytest.raises(ValueError, match="crops=4: choose 1"):
        next(pipeline.eval_batches(shards, ALL, CONFIG, 1, 4, 1))
    with pytest.raises(ValueError, match="batch_size=6: must divide among 4 devices"):
        pipeline.eval_batches(shards, ALL, CONFIG, 1, 1, 6, parts=4)
