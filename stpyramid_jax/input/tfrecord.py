"""Prepared shards as arrays: any frame or flow field by its number, checked, nothing else read."""

import csv
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

from stpyramid_jax.records import FORMAT, decode_example, read_record, shard_file

PARTS = ("train", "test")


@dataclass(frozen=True)
class Video:
    """One row of `videos.csv`; `parts` maps a split to "train", "test" or "" (in neither)."""

    name: str
    label: int
    group: str
    frames: int
    fields: int
    shard: int
    parts: Mapping[str, str]


class Shards:
    """A prepared data set, read at random; each reading opens its shard, so threads share it.

    Attributes:
      name, classes, splits: of the data set; a label is an index into `classes`.
      families: of records that were prepared, "rgb" and others of `records.FAMILIES`.
      digest: SHA-256 that names the prepared bytes.
      parameters: of the preparation, all that shaped the bytes.
      videos: one `Video` per row of `videos.csv`; a video's number is its place here.

    Raises:
      ValueError: the directory is not a complete, unchanged preparation of this format.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = Path(directory)
        info = _read_info(self.directory)
        self.name: str = info["name"]
        self.classes: tuple[str, ...] = tuple(info["classes"])
        self.splits: tuple[str, ...] = tuple(info["splits"])
        self.families: tuple[str, ...] = tuple(info["families"])
        self.digest: str = info["digest"]
        self.parameters: dict = info["parameters"]
        self.videos = _read_videos(self.directory / "videos.csv", self.splits)
        self._shards: int = info["shards"]
        with np.load(self.directory / "index.npz") as index:
            self._offsets = {family: index[f"{family}_offsets"] for family in self.families}
        self._starts = {
            family: _starts([self._records(family, video) for video in self.videos])
            for family in self.families
        }

    def select(self, split: str, part: str) -> Int64[np.ndarray, " videos"]:
        """Numbers of the videos that `split` puts in `part` ("train" or "test").

        Raises:
          ValueError: the data set has no such split, or no video in that part.
        """
        if split not in self.splits or part not in PARTS:
            raise ValueError(
                f"{self.directory}: no part {part!r} of split {split!r}; "
                f"splits are {', '.join(self.splits)}, parts are {', '.join(PARTS)}"
            )
        chosen = [v for v, video in enumerate(self.videos) if video.parts[split] == part]
        if not chosen:
            raise ValueError(f"{self.directory}: split {split!r} has no {part} videos")
        return np.array(chosen, np.int64)

    def rgb(self, video: int, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        """One frame, channels in the order red, green, blue.

        Raises:
          ValueError: a damaged or foreign record, named by file, video, frame and offset.
        """
        return next(self._read("rgb", video, frame, 1, cv2.IMREAD_COLOR_RGB))

    def flow(
        self, video: int, start: int, length: int, family: str = "flow"
    ) -> Iterator[UInt8[np.ndarray, "2 h w"]]:
        """Fields `start..start+length-1` as bytes, x then y; field k leads from frame k to k+1.

        A byte is `255 (v + bound) / (2 bound)` of the displacement v in pixels, 128 is none. Each
        field is read when it is asked for: held together they would leave the processor's caches.

        Args:
          family: of fields, "flow" or "warped", one of `families`.

        Raises:
          ValueError: as `rgb`.
        """
        for image in self._read(family, video, start, length, cv2.IMREAD_GRAYSCALE):
            yield image.reshape(2, -1, image.shape[-1])

    @staticmethod
    def _records(family: str, video: Video) -> int:
        return video.frames if family == "rgb" else video.fields

    def _read(
        self, family: str, video: int, start: int, count: int, mode: int
    ) -> Iterator[UInt8[np.ndarray, "..."]]:
        about = self.videos[video]
        total = self._records(family, about)
        if not (start >= 0 and 1 <= count <= total - start):
            raise ValueError(
                f"{about.name}: {family} {start}..{start + count - 1} asked, it has 0..{total - 1}"
            )
        path = self.directory / shard_file(self.name, family, about.shard, self._shards)
        first = self._starts[family][video] + start
        offsets = self._offsets[family][first : first + count + 1].tolist()
        with open(path, "rb", buffering=0) as shard:
            if hasattr(os, "posix_fadvise"):
                # Reading ahead fetched eight times what a sample takes from a cold disk.
                extent = (offsets[0], offsets[-1] - offsets[0])
                os.posix_fadvise(shard.fileno(), *extent, os.POSIX_FADV_RANDOM)
                os.posix_fadvise(shard.fileno(), *extent, os.POSIX_FADV_WILLNEED)
            for number, (offset, end) in enumerate(itertools.pairwise(offsets), start):
                where = f"{path}: {about.name} {family} {number}"
                record = decode_example(read_record(shard.fileno(), offset, end, where))
                if (record["video"], record["frame"]) != (about.name.encode(), number):
                    raise ValueError(
                        f"{where}: the record at offset {offset} is {record['video']!r} "
                        f"{record['frame']}; index.npz is of another preparation, prepare again"
                    )
                image = cv2.imdecode(np.frombuffer(cast(bytes, record["image"]), np.uint8), mode)
                if image is None:
                    raise ValueError(f"{where}: no JPEG at offset {offset}; prepare again")
                yield image


def _read_info(directory: Path) -> dict:
    """Reads `dataset.json` and compares the directory with what it lists."""
    path = directory / "dataset.json"
    if not path.is_file():
        raise ValueError(
            f"{directory}: no dataset.json, so no complete data set; "
            f"run data/prepare.py --dataset=... --out={directory} (it continues where it stopped; "
            "each config has its command at its head; for the quickstart, make demo)"
        )
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); prepare the data set again") from error
    found = info.get("format") if isinstance(info, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"{path}: format is {found!r}, this version reads {FORMAT}; prepare the data set again"
        )
    keys = {"name", "classes", "splits", "families", "digest", "parameters", "shards", "files"}
    absent = keys - info.keys()
    if absent:
        raise ValueError(f"{path}: has no {', '.join(sorted(absent))}; prepare the data set again")
    missing = [name for name in info["files"] if not (directory / name).is_file()]
    if missing:
        raise ValueError(
            f"{directory}: {len(missing)} of {len(info['files'])} files are missing, first "
            f"{missing[0]}; prepare the data set again"
        )
    # Shards are checked record by record as they are read; what leads to the records, here.
    for name in ("index.npz", "videos.csv"):
        digest = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        if digest != info["files"][name]["sha256"]:
            raise ValueError(
                f"{directory / name}: changed since the preparation; prepare the data set again"
            )
    return info


def _read_videos(path: Path, splits: tuple[str, ...]) -> tuple[Video, ...]:
    with open(path, newline="", encoding="utf-8") as file:
        return tuple(
            Video(
                name=row["name"],
                label=int(row["label"]),
                group=row["group"],
                frames=int(row["frames"]),
                fields=int(row["fields"]),
                shard=int(row["shard"]),
                parts={split: row[split] for split in splits},
            )
            for row in csv.DictReader(file)
        )


def _starts(counts: list[int]) -> Int64[np.ndarray, " videos"]:
    """Place of each video's first offset: a video of n records has n + 1 offsets."""
    ends = np.cumsum(np.array(counts, np.int64) + 1)
    return np.concatenate([np.zeros(1, np.int64), ends[:-1]])
