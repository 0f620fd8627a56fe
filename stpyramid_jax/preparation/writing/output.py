"""The prepared folder: begun, continued, joined and complete.

Until all is done the folder also holds `.plan.json` (what is being prepared) and the hidden files
of `shards`. `dataset.json` is written last and marks the folder complete; then all hidden files go.
"""

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from stpyramid_jax.disk import write
from stpyramid_jax.preparation.annotations import ListedVideo
from stpyramid_jax.preparation.writing.shards import (
    entries_of,
    left_out,
    remove_broken,
    remove_parts,
    shard_shares,
)
from stpyramid_jax.preparation.writing.tfds import tfds_files
from stpyramid_jax.records import shard_file

COLUMNS = ("name", "path", "class", "label", "group", "frames", "fields", "shard")
"""Columns of `videos.csv`; a column for each split follows."""

LIBRARIES = tuple(
    f"parameters.{key}" for key in ("libraries.", "flow.jax", "flow.platform", "flow.x64")
)
"""Keys of a plan that shape the bytes but are not of the user's choosing."""


def write_errors(folder: Path, errors: Sequence[tuple[str, str, str]]) -> bytes:
    data = _table(("name", "path", "reason"), errors)
    write(folder / "errors.csv", data)
    return data


def read_errors(folder: Path) -> list[tuple[str, str, str]]:
    """Inverse of `write_errors`."""
    with (folder / "errors.csv").open(newline="") as file:
        return [(name, path, reason) for name, path, reason in list(csv.reader(file))[1:]]


@contextlib.contextmanager
def locked(folder: Path, other: str = "another preparation is writing") -> Iterator[int]:
    """Keeps other runs out of the folder; gives the descriptor that holds the lock.

    The lock ends with the process and the programs that were handed the descriptor.

    Raises:
      ValueError: another run has the lock; `other` is what is said of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: {other} here") from None
        yield descriptor
    finally:
        os.close(descriptor)


def begin(folder: Path, plan: Mapping) -> bool:
    """Checks that the folder is empty or was begun with the same plan; True when it is complete.

    A complete folder may be of other versions of the libraries: nothing is added to it.

    Raises:
      ValueError: the folder holds something else, or another plan; its differing keys are named.
    """
    dataset, started = folder / "dataset.json", folder / ".plan.json"
    if dataset.is_file():
        found = _load(dataset)
        faults = differences(plan, found, but=LIBRARIES)
        _refuse(folder, faults + _damage(folder, found.get("files", {})))
        _remove_hidden(folder)
        return True
    if started.is_file():
        _refuse(folder, differences(plan, _load(started)))
        remove_parts(folder)
        remove_broken(folder)
        return False
    strangers = sorted({path.name for path in folder.iterdir()} - {".plan.json.part"})
    if strangers:
        _refuse(folder, [f"not empty and not a preparation: holds {strangers[0]}"])
    write(started, json.dumps(plan, indent=1).encode())
    return False


def _refuse(folder: Path, faults: Sequence[str]) -> None:
    if faults:
        raise ValueError("\n".join(f"{folder}: {fault}; choose another --out" for fault in faults))


def _load(path: Path) -> dict:
    try:
        found = json.loads(path.read_text())
        if isinstance(found, dict):
            return found
        reason = f"holds a {type(found).__name__}"
    except ValueError as error:
        reason = str(error)
    raise ValueError(
        f"{path}: not what a preparation writes ({reason}); remove the folder or choose another "
        "--out"
    )


def differences(plan: Mapping, found: Mapping, but: tuple[str, ...] = ()) -> list[str]:
    here, there = _flat(plan), _flat({key: found.get(key) for key in plan})
    return [
        f"prepared with {key} = {there.get(key)!r}, now {here.get(key)!r}"
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key) and not key.startswith(but)
    ]


def _flat(tree: Mapping, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return flat


def _damage(folder: Path, files: Mapping) -> list[str]:
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    return [
        f"{name} is damaged, {sizes.get(name, 0)} of {entry['bytes']} bytes"
        for name, entry in files.items()
        if sizes.get(name, 0) != entry["bytes"]
    ]


def finalise(folder: Path, plan: Mapping, videos: Sequence[ListedVideo]) -> dict:
    """Joins the manifests into index, lists and `dataset.json`, which is returned."""
    entries, files, errors = {}, {}, []
    for path in sorted(folder.glob(".shard-*.jsonl")):
        errors += left_out(path)
        for entry in entries_of(path):
            if "files" in entry:
                files |= entry["files"]
            else:
                entries[entry["name"]] = entry
    kept = [video for video in videos if "frames" in entries[video.name]]
    if not kept:
        write_errors(folder, errors)
        raise RuntimeError(
            f"none of the {len(videos)} videos could be prepared; {folder / 'errors.csv'} says why"
        )

    shares = shard_shares(len(videos))
    shards = {v.name: shard for shard, share in enumerate(shares) for v in videos[share]}
    offsets = {
        family: [np.asarray(entries[v.name][f"{family}_offsets"], np.int64) for v in kept]
        for family in plan["families"]
    }
    frames = [entries[video.name]["frames"] for video in kept]
    rows = [
        (v.name, v.path, v.class_name, v.label, v.group, n, n - 1, shards[v.name], *v.splits)
        for v, n in zip(kept, frames, strict=True)
    ]
    sizes = {}
    for family in plan["families"]:
        records = [0] * len(shares)
        for video, ends in zip(kept, offsets[family], strict=True):
            records[shards[video.name]] += len(ends) - 1
        names = [shard_file(plan["name"], family, n, len(shares)) for n in range(len(shares))]
        sizes[family] = [(n, files[name]["bytes"]) for n, name in zip(records, names, strict=True)]
    joined = {
        "index.npz": _index(offsets),
        "videos.csv": _table((*COLUMNS, *plan["splits"]), rows),
        **tfds_files(plan["name"], plan["classes"], sizes),
    }
    for name, data in joined.items():
        write(folder / name, data)
    joined["errors.csv"] = write_errors(folder, errors)
    for name, data in joined.items():
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    files = dict(sorted(files.items()))
    dataset = {
        **plan,
        "videos": len(kept),
        "errors": len(errors),
        "rgb_frames": sum(frames),
        "flow_fields": sum(frames) - len(kept) if len(offsets) > 1 else 0,
        "shards": len(shares),
        "files": files,
        "digest": digest_of(plan["parameters"], files),
    }
    write(folder / "dataset.json", (json.dumps(dataset, indent=1) + "\n").encode())
    _remove_hidden(folder)
    return dataset


def digest_of(parameters: Mapping, files: Mapping) -> str:
    """SHA-256 that names a data set: of what shaped its bytes, and of its files."""
    shaped = json.dumps([parameters, files], sort_keys=True)
    return hashlib.sha256(shaped.encode()).hexdigest()


def _remove_hidden(folder: Path) -> None:
    remove_parts(folder)
    for path in (*folder.glob(".shard-*.jsonl"), folder / ".plan.json"):
        path.unlink(missing_ok=True)


def _index(offsets: Mapping[str, Sequence[np.ndarray]]) -> bytes:
    data = io.BytesIO()
    arrays = {f"{family}_offsets": np.concatenate(ends) for family, ends in offsets.items()}
    np.savez(data, allow_pickle=False, **arrays)
    return data.getvalue()


def _table(header: Sequence[str], rows: Sequence[Sequence]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()
