"""What batches of both kinds promise, and what is asked in vain."""

import re
from dataclasses import replace

import numpy as np
import pytest

from stpyramid_jax.input import pipeline
from stpyramid_jax.input.config import InputConfig
from stpyramid_jax.input.pipeline import apart
from stpyramid_jax.input.tfrecord import Shards
from tests.input.batches import ALL, CONFIG, Numbers, take


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
