"""Whether a prepared folder holds what it says, by reading every byte of it."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stpyramid_jax.preparation.verification.audit import Tally, audit_shard
from stpyramid_jax.preparation.verification.contents import read_offsets, read_videos
from stpyramid_jax.preparation.verification.description import read_dataset, shard_files
from stpyramid_jax.progress import progress_bar


@dataclass(frozen=True)
class Report:
    """A tally of each family, and a line for each problem."""

    tallies: Mapping[str, Tally]
    problems: Sequence[str]


def inspect(folder: Path) -> Report:
    """Reads every file of a complete prepared folder and compares it with all the others.

    That is: sizes and SHA-256 of the files, the lists, the counts, and of each record its place,
    checksums, video, number and label. Decoded are the images of the first video of each shard,
    and of every 16th record. Problems are collected; of one file five records are told.
    """
    try:
        dataset = read_dataset(folder)
    except ValueError as error:
        return Report({}, str(error).splitlines())
    shards, files = shard_files(dataset), dataset["files"]
    strangers = {path.name for path in folder.glob("*.tfrecord-*")} - files.keys()
    problems = [f"{name!r}: not of this data set" for name in sorted(strangers)]
    try:
        videos = read_videos(folder, dataset)
        offsets = read_offsets(folder, dataset, videos)
    except ValueError as error:
        problems += [*str(error).splitlines(), "no record was looked at, their lists are damaged"]
        videos, offsets = [], {family: [] for family in dataset["families"]}

    held = defaultdict(list)
    for family, ends in offsets.items():
        for video, of_video in zip(videos, ends, strict=True):
            held[family, video.shard].append((video, of_video))

    def check(name: str) -> tuple[list[str], Tally]:
        try:
            changes = _changes(folder / name, files[name])
            if name not in shards or not (folder / name).is_file():
                return changes, Tally()
            mine = held.get(shards[name], ())
            faults, tally = audit_shard(folder / name, shards[name][0], mine, dataset["parameters"])
            return changes + faults, tally
        except OSError as error:
            return [f"{name}: cannot be read ({error.strerror or error})"], Tally()

    tallies = {family: Tally() for family in dataset["families"]}
    with ThreadPoolExecutor() as pool, progress_bar(len(files), "files") as show:
        try:
            for done, (name, (faults, tally)) in enumerate(
                zip(files, pool.map(check, files), strict=True), 1
            ):
                problems += faults
                if name in shards:
                    tallies[shards[name][0]] += tally
                show(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Report(tallies, problems)


def _changes(path: Path, entry: Mapping) -> list[str]:
    if not path.is_file():
        return [f"{path.name}: missing"]
    size = path.stat().st_size
    if size != entry["bytes"]:
        return [f"{path.name}: has {size} of {entry['bytes']} bytes"]
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
            return [f"{path.name}: changed, its SHA-256 is not that of dataset.json"]
    return []
