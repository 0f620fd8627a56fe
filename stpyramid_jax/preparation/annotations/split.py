"""The split of a folder of own videos: told by a CSV, or made over groups."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from stpyramid_jax.preparation.annotations.listing import ListedVideo, composed
from stpyramid_jax.preparation.annotations.table import table_rows

TEST_RATIO = 0.25


def split_as_told(
    split: Path, videos: Sequence[ListedVideo], others: set[str]
) -> tuple[tuple[str, ...], list[ListedVideo], list[str]]:
    """Names of the splits of a CSV, the videos with their parts, and what is wrong with it.

    Rows of the classes `others`, which nobody asked for, are not looked at.
    """
    splits, rows = table_rows(split, ("path",))
    left = {composed(row.path): row for row in rows}
    found, faults = [], []
    for video in videos:
        row = left.pop(composed(video.path), None)
        if row is None:
            faults.append(f"{video.path}: not in {split}; add a row for it")
        else:
            found.append(replace(video, group=row.group or video.group, splits=row.splits))
    faults += [
        f"{row.where}: {row.path} is no video of the class folders"
        for row in left.values()
        if row.path.partition("/")[0] not in others
    ]
    return splits, found, faults


def split_groups(videos: Iterable[ListedVideo], test_ratio: float) -> list[ListedVideo]:
    """Puts `round(test_ratio n)` of the n groups of each class into test, the rest into train.

    The groups with the smallest SHA-256 of their name are taken. At least one of two is on each
    side, whatever the ratio; a single one is in train.
    """
    groups = defaultdict(set)
    for video in videos:
        groups[video.class_name].add(video.group)
    test = set()
    for names in groups.values():
        shuffled = sorted(names, key=_digest)
        test |= set(shuffled[: min(max(round(test_ratio * len(names)), 1), len(names) - 1)])
    return [replace(v, splits=("test" if v.group in test else "train",)) for v in videos]


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()  # bad names are named
