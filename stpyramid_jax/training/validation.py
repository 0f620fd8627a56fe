"""Clips that are held out of training, to choose a checkpoint by: never those of the test part."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from stpyramid_jax.input.tfrecord import Video


def hold_out(
    videos: Sequence[Video], training: Int64[np.ndarray, " n"], share: float
) -> tuple[Int64[np.ndarray, " training"], Int64[np.ndarray, " validation"]]:
    """Divides the numbers of training videos into those that stay and those held out.

    Of each class with n groups the `round(share n)` whose names have the smallest SHA-256 are held
    out, at least one and never all. Clips of one group are nearly alike, so that a group is never
    divided; one that several classes share is held out of all of them.

    Raises:
      ValueError: some class has one group only, or none is left of another to train on.
    """
    if not share:
        return training, training[:0]
    groups = defaultdict(set)
    for number in training:
        groups[videos[number].label].add(videos[number].group)
    single = [label for label, names in groups.items() if len(names) < 2]
    if single:
        raise ValueError(
            f"data.validation={share}: {len(single)} classes have one group of clips only, such as "
            f"that of {_example(videos, training, single[0])}; set --config.data.validation=0"
        )
    held: set[str] = set()
    for names in groups.values():
        count = min(max(round(share * len(names)), 1), len(names) - 1)
        held |= set(sorted(names, key=_digest)[:count])
    emptied = [label for label, names in groups.items() if names <= held]
    if emptied:
        raise ValueError(
            f"data.validation={share}: groups that classes share leave no clip to train on of the "
            f"class of {_example(videos, training, emptied[0])}; give a smaller share"
        )
    out = np.array([videos[number].group in held for number in training])
    return training[~out], training[out]


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _example(videos, training, label) -> str:
    return next(videos[number].name for number in training if videos[number].label == label)
