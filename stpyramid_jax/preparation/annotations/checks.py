"""The checks that every list of videos passes before any work."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from stpyramid_jax.preparation.annotations.listing import (
    UNWRITABLE,
    Annotations,
    ListedVideo,
    There,
    composed,
    refuse,
)


def checked(
    listed: Annotations,
    videos: Path,
    missing: str = "fail",
    there: There | None = None,
    faults: Iterable[str] = (),
) -> Annotations:
    """The list by class, then path, without absent videos where `missing` is "skip".

    A video is found however its accented letters are composed on disk (Unicode NFC or NFD).

    Raises:
      ValueError: all of `faults`, and a line for every name that cannot be stored, video that is
        not on disk, duplicate, and group on both sides of a split.
    """
    there = there or (lambda path: os.path.isfile(videos / path))
    unstorable = _unstorable(listed)
    found, absent = [], []
    for video in sorted(listed.videos, key=lambda video: (video.label, video.path)):
        if video.path in unstorable:  # named for that
            continue
        path = _spelling(video.path, there)
        if path is None:
            absent.append(video.path)
        if path is not None or missing == "fail":
            found.append(replace(video, path=path or video.path))

    faults = [*faults, *_strange(listed.classes), *unstorable.values()]
    if missing == "fail":
        faults += [f"{videos / path}: listed, but not on disk" for path in sorted(absent)]
    elif absent and not found:
        faults.append(f"{videos}: holds none of the {len(absent)} listed videos")
    refuse([*faults, *_duplicates(found), *_leaks(found, listed.splits)])
    return replace(listed, videos=tuple(found), missing=len(absent) if missing == "skip" else 0)


def _unstorable(listed: Annotations) -> dict[str, str]:
    """What is wrong with a path: shards hold UTF-8, and lists a line for each video."""
    faults = {}
    for video in listed.videos:
        path = PurePosixPath(video.path)
        if bad := UNWRITABLE.search(video.path + video.group):
            faults[video.path] = f"{video.path}: name or group holds {bad[0]!a}; rename it"
        elif path.is_absolute() or ".." in path.parts:
            faults[video.path] = f"{video.path}: not a path inside the folder of videos"
    return faults


def _strange(classes: Sequence[str]) -> list[str]:
    count = Counter(map(composed, classes))
    return [
        *(
            f"class {name!a} holds {b[0]!a}; rename it"
            for name in classes
            if (b := UNWRITABLE.search(name))
        ),
        *(f"class {name!a}: listed twice" for name in classes if count[composed(name)] > 1),
    ]


def _spelling(path: str, there: There) -> str | None:
    """The path as the disk has it, None where it has not."""
    forms = dict.fromkeys((path, composed(path), unicodedata.normalize("NFD", path)))
    return next((form for form in forms if there(form)), None)


def _duplicates(videos: Iterable[ListedVideo]) -> list[str]:
    count = Counter(composed(video.name) for video in videos)
    return [f"{v.path}: duplicate name {v.name!a}" for v in videos if count[composed(v.name)] > 1]


def _leaks(videos: Iterable[ListedVideo], splits: Sequence[str]) -> list[str]:
    faults = []
    for column, split in enumerate(splits):
        sides = defaultdict(dict)
        for video in videos:
            sides[video.group].setdefault(video.splits[column], video.path)
        faults += [
            f"{split}: group {group} is on both sides: "
            f"{side['train']} in train, {side['test']} in test"
            for group, side in sides.items()
            if {"train", "test"} <= side.keys()
        ]
    return faults
