"""Views of an evaluation: complete, each image read once, whatever batch they share."""

import itertools
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from stpyramid_jax.input import augment, pipeline, sampling
from stpyramid_jax.input.config import InputConfig
from stpyramid_jax.input.pipeline import apart
from stpyramid_jax.input.tfrecord import Shards
from tests.input.batches import ALL, CONFIG, Numbers, assert_equal


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
