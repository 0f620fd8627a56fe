"""The videos and records that a complete prepared folder says it holds: `videos.csv`, `index.npz`.

Nothing here trusts a file: what cannot be so comes as a ValueError, a line for each fault.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stpyramid_jax.preparation.annotations import ListedVideo
from stpyramid_jax.preparation.verification.description import refuse, shard_files
from stpyramid_jax.preparation.writing.output import COLUMNS

_SMALLEST = 16  # bytes of a record of nothing


@dataclass(frozen=True)
class PreparedVideo(ListedVideo):
    """A row of `videos.csv`."""

    frames: int
    fields: int
    shard: int

    def records(self, family: str) -> int:
        return self.frames if family == "rgb" else self.fields


def read_videos(folder: Path, dataset: Mapping) -> list[PreparedVideo]:
    """Rows of `videos.csv`, which agree with each other and with `dataset.json`.

    Raises:
      ValueError: they do not, or the split is none: a group is on both of its sides.
    """
    header = [*COLUMNS, *dataset["splits"]]
    rows = _rows(folder / "videos.csv")
    if rows[:1] != [header]:
        raise ValueError(f"videos.csv: its first line is not {','.join(header)}")
    videos, faults = [], []
    for number, row in enumerate(rows[1:], 1):
        try:
            videos.append(_video(row, dataset))
        except ValueError as error:
            faults.append(f"row {number}: {error}")
    refuse("videos.csv", faults)
    counted = {
        "videos": len(videos),
        "rgb_frames": sum(video.frames for video in videos),
        "flow_fields": sum(v.fields for v in videos) if len(dataset["families"]) > 1 else 0,
        "errors": len(_rows(folder / "errors.csv")) - 1,
    }
    faults += [
        f"{count} {key} are listed, dataset.json says {dataset[key]}"
        for key, count in counted.items()
        if count != dataset[key]
    ]
    times = Counter(video.name for video in videos)
    faults += [f"{name!r} is listed {count} times" for name, count in times.items() if count > 1]
    if [video.shard for video in videos] != sorted(video.shard for video in videos):
        faults.append("shards are not in order")
    refuse("videos.csv", [*faults, *_mixed_groups(videos, dataset["splits"])])
    return videos


def _rows(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path.name}: not a table ({error})") from None


def _video(row: Sequence[str], dataset: Mapping) -> PreparedVideo:
    columns = len(COLUMNS) + len(dataset["splits"])
    if len(row) != columns:
        raise ValueError(f"has {len(row)} columns, not {columns}")
    name, path, class_name, label, group, frames, fields, shard, *splits = row
    if class_name not in dataset["classes"]:
        raise ValueError(f"unknown class {class_name!r}")
    if int(label) != dataset["classes"].index(class_name):
        raise ValueError(f"label {label} is not that of {class_name!r}")
    if int(frames) < 2 or int(fields) != int(frames) - 1:
        raise ValueError(f"{fields} fields between {frames} frames")
    if not 0 <= int(shard) < dataset["shards"]:
        raise ValueError(f"shard {shard}, of {dataset['shards']}")
    if not {*splits} <= {"train", "test", ""}:
        raise ValueError(f"parts {','.join(splits)!r}, not train, test or none")
    numbers = {"frames": int(frames), "fields": int(fields), "shard": int(shard)}
    return PreparedVideo(name, path, class_name, int(label), group, tuple(splits), **numbers)


def _mixed_groups(videos: Sequence[PreparedVideo], splits: Sequence[str]) -> list[str]:
    faults = []
    for column, split in enumerate(splits):
        parts = defaultdict(set)
        for video in videos:
            parts[video.group].add(video.splits[column])
        mixed = sorted(group for group, sides in parts.items() if {"train", "test"} <= sides)
        faults += [f"group {group!r} is on both sides of {split}" for group in mixed]
    return faults


def read_offsets(
    folder: Path, dataset: Mapping, videos: Sequence[PreparedVideo]
) -> dict[str, list[np.ndarray]]:
    """Where each record begins in its shard, and where the last ends, by family and video.

    Raises:
      ValueError: `index.npz` is of other videos, or does not fill the shards without a gap.
    """
    try:
        with (folder / "index.npz").open("rb") as file, np.load(file) as index:
            arrays = {family: index[f"{family}_offsets"] for family in dataset["families"]}
    except Exception as error:  # each layer of a damaged archive has its own
        raise ValueError(f"index.npz: not an index ({type(error).__name__}: {error})") from None
    offsets, faults = {}, []
    for family, array in arrays.items():
        ends = np.cumsum([video.records(family) + 1 for video in videos])
        if array.dtype != np.int64 or array.shape != (ends[-1] if len(ends) else 0,):
            faults.append(f"{family}_offsets are {array.dtype}{array.shape}, of other videos")
        else:
            offsets[family] = np.split(array, ends[:-1])
    refuse("index.npz", faults)
    sizes = {place: dataset["files"][name]["bytes"] for name, place in shard_files(dataset).items()}
    filled = defaultdict(int)
    for family, all_ends in offsets.items():
        for video, ends in zip(videos, all_ends, strict=True):
            place = family, video.shard
            inside = ends[0] == filled[place] and (ends == ends.clip(0, sizes[place])).all()
            if not (inside and (np.diff(ends) >= _SMALLEST).all()):
                faults.append(f"{family} of {video.name!r} is not after the video before")
            filled[place] = int(ends[-1])
    faults += [
        f"{family} of shard {shard} ends at {filled[family, shard]}, its file at {size}"
        for (family, shard), size in sizes.items()
        if filled[family, shard] != size
    ]
    refuse("index.npz", faults)
    return offsets
