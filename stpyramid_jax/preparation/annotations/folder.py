"""A folder of own videos, a subfolder for each class."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from stpyramid_jax.preparation.annotations.listing import (
    Annotations,
    ListedVideo,
    choose,
    duplicates,
    group_of,
    leaks,
    refuse,
    unknown,
)

VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv")


def read_folder(videos: Path, classes: Sequence[str] = ()) -> Annotations:
    """Lists a folder of own videos, with one split, `split1`.

    With folders `train` and `test`, each holding `<Class>/<video>`, the split is theirs. Otherwise
    the folder holds `<Class>/<video>` and the split is made over groups, since clips cut from one
    recording are near-duplicates: `<Class>_gNN` where the file name holds `_gNN_`, else the video
    itself. In each class the quarter of the groups (at least one of two) whose names have the
    smallest SHA-256 is the test part, which depends on the names alone.

    A video's name is its path without suffix. Files without a suffix of video and hidden ones are
    passed over; videos that are not directly in a class folder are refused.
    Classes are in alphabetical order; `classes` keeps only these, in the same order.

    Raises:
      ValueError: one line for every unknown or empty class, video elsewhere, duplicate name, and
        group on both sides of the split.
    """
    parts = tuple(part for part in ("train", "test") if (videos / part).is_dir()) or ("",)
    if len(parts) == 1 and parts[0]:
        other = "test" if parts[0] == "train" else "train"
        raise ValueError(
            f"{videos}: holds {parts[0]} but no {other}; add {videos / other}/<Class>/<video>, or "
            f"lay videos out as <Class>/<video>, where no class may be called {parts[0]}"
        )
    folders = {
        (part, folder.name): folder
        for part in parts
        for folder in sorted((videos / part).iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    if not folders:
        raise ValueError(
            f"{videos}: no class folders; lay videos out as <Class>/<video> or "
            "train/<Class>/<video> and test/<Class>/<video>"
        )
    known = sorted({name for part, name in folders if part != "test"})
    chosen = choose(known, classes)

    found = []
    loose = [file for part in parts for file in _videos((videos / part).iterdir())]
    faults = [f"{file}: not in a class folder" for file in loose]
    for (part, name), folder in folders.items():
        if name not in known:
            faults.append(f"{folder}: {unknown(name, known)} of train")
        elif name in chosen:
            files = _videos(folder.rglob("*"))
            deep = [file for file in files if file.parent != folder]
            faults += [f"{file}: in a subfolder; put it into {folder}" for file in deep]
            if not files:
                faults.append(f"{folder}: holds no videos")
            for file in files:
                path = file.relative_to(videos).as_posix()
                stem = path.removesuffix(file.suffix)
                label = chosen.index(name)
                found.append(ListedVideo(stem, path, name, label, group_of(path, name), (part,)))
    refuse(faults + duplicates(found) + leaks(found, ("split1",)))
    if parts == ("",):
        found = _split_groups(found)
    found.sort(key=lambda video: (video.label, video.path))
    name = re.sub(r"[^A-Za-z0-9]+", "_", videos.resolve().name).strip("_") or "videos"
    return Annotations(name, chosen, ("split1",), tuple(found))


def _videos(paths: Iterable[Path]) -> list[Path]:
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")
    )


def _split_groups(videos: Iterable[ListedVideo]) -> list[ListedVideo]:
    groups = defaultdict(set)
    for video in videos:
        groups[video.class_name].add(video.group)
    test = set()
    for names in groups.values():
        shuffled = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        test |= set(shuffled[: max(round(len(names) / 4), len(names) > 1)])
    return [
        ListedVideo(v.name, v.path, v.class_name, v.label, v.group, (_part(v.group in test),))
        for v in videos
    ]


def _part(is_test: bool) -> str:
    return "test" if is_test else "train"
