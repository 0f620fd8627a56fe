"""What a list of videos says, how it is read, and how it is refused."""

import difflib
import functools
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

There = Callable[[str], bool]
"""Whether the video of a path, relative to the folder of videos, is there."""

UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Ends a line of a list or of a message, or is no text in UTF-8."""


VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv")


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


def composed(name: str) -> str:
    """A name to compare: file systems differ in how they compose accented letters."""
    return unicodedata.normalize("NFC", name)


def stem_of(path: str) -> str:
    """A path without the suffix of a video; `clip_0.5` has none."""
    suffix = PurePosixPath(path).suffix
    return path.removesuffix(suffix) if suffix.lower() in VIDEO_SUFFIXES else path


def group_of(path: str, class_name: str) -> str:
    match = re.search(r"_(g\d+)_", PurePosixPath(path).name)
    return f"{class_name}_{match[1]}" if match else stem_of(path)


def file_name(text: str) -> str:
    """Name of a data set, which the names of its shards begin with."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:64] or "videos"


def choose(known: Collection[str], classes: Collection[str]) -> tuple[str, ...]:
    wanted = {composed(name) for name in classes}
    strange = wanted - {composed(name) for name in known}
    refuse(f"--classes: {unknown(n, known)}" for n in classes if composed(n) in strange)
    return tuple(name for name in known if not classes or composed(name) in wanted)


def unknown(name: str, known: Collection[str]) -> str:
    return f"unknown class {name!r}, the nearest is {_nearest(name, tuple(known))!r}"


@functools.lru_cache  # a list may name one class on thousands of lines
def _nearest(name: str, known: tuple[str, ...]) -> str:
    def likeness(other):
        return difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()

    return max(known, key=likeness)


def rows(path: Path, pattern: str, form: str) -> list[tuple[str, ...]]:
    """Groups of `pattern` in every line that is not blank; `form` is the pattern for people."""
    lines = text_of(path).split("\n")
    rows = [
        (number, line.strip(), re.fullmatch(pattern, line.strip()))
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    refuse(
        f"{path}, line {number}: {line!r} is not {form}" for number, line, row in rows if not row
    )
    return [row.groups() for _, _, row in rows if row]


def text_of(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
      ValueError: it is something else.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error})") from None


def refuse(faults: Iterable[str]) -> None:
    """Raises all faults as one ValueError, a line each whatever the names in it hold."""
    lines = [UNWRITABLE.sub(lambda match: ascii(match[0])[1:-1], fault) for fault in faults]
    if lines:
        raise ValueError("\n".join(lines))
