"""A source of clips that tells what is read of it, and batches to compare."""

import itertools
from pathlib import Path

import numpy as np

from stpyramid_jax.input import pipeline
from stpyramid_jax.input.config import InputConfig
from stpyramid_jax.input.tfrecord import Video

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
