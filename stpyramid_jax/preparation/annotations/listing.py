"""What a list of videos says, and the checks that every list passes before any work."""

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ListedVideo:
    """One video of a list; `path` is relative to the folder of videos, `name` is unique."""

    name: str
    path: str
    class_name: str
    label: int
    group: str
    splits: tuple[str, ...]  # "train", "test" or "" for each split


@dataclass(frozen=True)
class Annotations:
    """A checked list of videos in a deterministic order; labels count `classes` from zero."""

    name: str
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    videos: tuple[ListedVideo, ...]
    missing: int = 0  # listed but not on disk, and left out on request


def group_of(path: str, class_name: str) -> str:
    match = re.search(r"_(g\d+)_", Path(path).name)
    return f"{class_name}_{match[1]}" if match else path.rpartition(".")[0]


def choose(known: Iterable[str], classes: Sequence[str]) -> tuple[str, ...]:
    refuse(f"--classes: {unknown(name, known)}" for name in classes if name not in known)
    return tuple(name for name in known if not classes or name in classes)


def unknown(name: str, known: Iterable[str]) -> str:
    def likeness(other):
        return difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()

    return f"unknown class {name!r}, the nearest is {max(known, key=likeness)!r}"


def duplicates(videos: Iterable[ListedVideo]) -> list[str]:
    count = Counter(video.name for video in videos)
    return [f"{v.path}: duplicate name {v.name!r}" for v in videos if count[v.name] > 1]


def leaks(videos: Iterable[ListedVideo], splits: Sequence[str]) -> list[str]:
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


def rows(path: Path, pattern: str, form: str) -> list[tuple[str, ...]]:
    """Groups of `pattern` in every line that is not blank; `form` is the pattern for people."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file ({error})") from None
    rows = [
        (number, line.strip(), re.fullmatch(pattern, line.strip()))
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    refuse(
        f"{path}, line {number}: {line!r} is not {form}" for number, line, row in rows if not row
    )
    return [row.groups() for _, _, row in rows if row]


def refuse(faults: Iterable[str]) -> None:
    faults = list(faults)
    if faults:
        raise ValueError("\n".join(faults))
