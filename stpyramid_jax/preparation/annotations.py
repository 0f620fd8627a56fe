"""Which videos there are, their classes and splits, and whether that can be believed."""

import difflib
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

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


def read_ucf101(
    annotations: Path, videos: Path, classes: Sequence[str] = (), missing: str = "fail"
) -> Annotations:
    """Reads `classInd.txt`, `trainlist0N.txt` and `testlist0N.txt`, N = 1, 2, 3.

    The class of a video is its folder: `HandstandPushups` holds `v_HandStandPushups_*`. Its group
    is `<Class>_gNN`. Videos are ordered by class, then by path.

    Args:
      annotations: folder of the official lists.
      videos: folder that holds `<Class>/<video>.avi`.
      classes: only these; labels then count them in the order of `classInd.txt`, whatever order
        they are given in.
      missing: "fail" refuses a list with videos that are not on disk, "skip" leaves them out.

    Raises:
      ValueError: one line for every list that is missing, line that cannot be read, unknown class,
        video that is not on disk, duplicate, and group on both sides of a split.
    """
    splits = ("split1", "split2", "split3")
    lists = {
        (split, part): annotations / f"{part}list0{number}.txt"
        for number, split in enumerate(splits, 1)
        for part in ("train", "test")
    }
    index = annotations / "classInd.txt"
    _refuse(
        f"{path}: no such list; --annotations takes the folder of the official UCF101 lists"
        for path in (index, *lists.values())
        if not path.is_file()
    )
    known = {name: number for number, name in _rows(index, r"(\d+)\s+(\S+)", "NUMBER CLASS")}
    if not known:
        raise ValueError(f"{index}: empty; expected a line NUMBER CLASS for each class")
    chosen = _choose(known, classes)

    faults = []
    parts = defaultdict(lambda: [""] * len(splits))
    video_line = r"(([^/\s]+)/\S+)"
    forms = {
        "train": (rf"{video_line}\s+(\d+)", "CLASS/VIDEO NUMBER"),
        "test": (rf"{video_line}()", "CLASS/VIDEO"),
    }
    for (split, part), path in lists.items():
        for video, folder, number in _rows(path, *forms[part]):
            column = splits.index(split)
            if folder not in known:
                faults.append(f"{path.name}: {video}: {_unknown(folder, known)}")
            elif folder in chosen:
                if number and number != known[folder]:
                    faults.append(
                        f"{path.name}: {video}: label {number}, but classInd.txt gives "
                        f"{folder} {known[folder]}"
                    )
                if parts[video][column]:
                    faults.append(f"{path.name}: {video}: listed twice in {split}")
                parts[video][column] = part
    if not parts:
        faults.append(f"{annotations}: the lists hold no video of {', '.join(chosen)}")

    absent = {path for path in parts if not (videos / path).is_file()}
    if missing == "fail":
        faults += [f"{videos / path}: listed, but not on disk" for path in sorted(absent)]
    elif parts and len(absent) == len(parts):
        faults.append(f"{videos}: holds none of the {len(parts)} listed videos")
    found = tuple(
        ListedVideo(Path(path).stem, path, folder, label, _group(path, folder), tuple(parts[path]))
        for label, folder in enumerate(chosen)
        for path in sorted(parts)
        if path.partition("/")[0] == folder and (missing == "fail" or path not in absent)
    )
    _refuse(faults + _duplicates(found) + _leaks(found, splits))
    # A score on some classes must not pass for one on all of them.
    name = "ucf101" if len(chosen) == len(known) else f"ucf101-{len(chosen)}-classes"
    return Annotations(name, chosen, splits, found, len(absent) if missing == "skip" else 0)


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
    chosen = _choose(known, classes)

    found = []
    loose = [file for part in parts for file in _videos((videos / part).iterdir())]
    faults = [f"{file}: not in a class folder" for file in loose]
    for (part, name), folder in folders.items():
        if name not in known:
            faults.append(f"{folder}: {_unknown(name, known)} of train")
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
                found.append(ListedVideo(stem, path, name, label, _group(path, name), (part,)))
    _refuse(faults + _duplicates(found) + _leaks(found, ("split1",)))
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


def _group(path: str, class_name: str) -> str:
    match = re.search(r"_(g\d+)_", Path(path).name)
    return f"{class_name}_{match[1]}" if match else path.rpartition(".")[0]


def _choose(known: Iterable[str], classes: Sequence[str]) -> tuple[str, ...]:
    _refuse(f"--classes: {_unknown(name, known)}" for name in classes if name not in known)
    return tuple(name for name in known if not classes or name in classes)


def _unknown(name: str, known: Iterable[str]) -> str:
    def likeness(other):
        return difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()

    return f"unknown class {name!r}, the nearest is {max(known, key=likeness)!r}"


def _duplicates(videos: Iterable[ListedVideo]) -> list[str]:
    count = Counter(video.name for video in videos)
    return [f"{v.path}: duplicate name {v.name!r}" for v in videos if count[v.name] > 1]


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


def _rows(path: Path, pattern: str, form: str) -> list[tuple[str, ...]]:
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
    _refuse(
        f"{path}, line {number}: {line!r} is not {form}" for number, line, row in rows if not row
    )
    return [row.groups() for _, _, row in rows if row]


def _refuse(faults: Iterable[str]) -> None:
    faults = list(faults)
    if faults:
        raise ValueError("\n".join(faults))
