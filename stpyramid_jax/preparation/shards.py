"""Writing shards so that a kill at any instant costs work, never bytes.

Until all is done the output folder also holds `.plan.json` (what is being prepared) and, for each
finished shard, `.shard-NNNNN.jsonl`: a line for each video (its frames and offsets, or why it was
left out) and a last line with the sizes and digests of the shard's files. Files being written are
called `.*.part` and are renamed when they are whole. `dataset.json` is written last and marks the
folder complete; then all hidden files go.
"""

import contextlib
import csv
import fcntl
import hashlib
import io
import itertools
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np

from stpyramid_jax.preparation.annotations import ListedVideo
from stpyramid_jax.records import FAMILIES, encode_example, encode_record, shard_file

VIDEOS_PER_SHARD = 32
LIBRARIES = ("parameters.libraries.", "parameters.flow.jax", "parameters.flow.platform")
"""Keys of a plan that shape the bytes but are not of the user's choosing."""


def shard_shares(num_videos: int) -> list[slice]:
    """Contiguous, even shares of at most `VIDEOS_PER_SHARD` videos; 16 shards if there are as many
    videos, so that workers share a small list too. Depends on the number of videos alone."""
    shards = max(-(-num_videos // VIDEOS_PER_SHARD), min(num_videos, 16))
    edges = [num_videos * shard // shards for shard in range(shards + 1)]
    return [slice(*edge) for edge in itertools.pairwise(edges)]


def manifest_file(shard: int) -> str:
    return f".shard-{shard:05d}.jsonl"


class ShardWriter:
    """Context that writes one shard of both families and its manifest, or nothing.

    Each video is appended to `rgb` and `flow` and then kept or left out.
    """

    def __init__(self, folder: Path, name: str, shard: int, shards: int):
        # The token keeps apart writers of one shard, such as one left over on a lost machine.
        token = uuid.uuid4().hex
        files = [shard_file(name, family, shard, shards) for family in FAMILIES]
        self._parts = {
            folder / file: folder / f".{file.removeprefix('.')}.{token}.part"
            for file in (*files, manifest_file(shard))
        }
        rgb, flow, self._manifest = self._parts.values()
        self._lines = self._manifest.open("w")  # first: whoever removes parts removes this one
        self.rgb, self.flow = _RecordFile(rgb), _RecordFile(flow)

    def __enter__(self):
        return self

    def keep(self, video: ListedVideo) -> None:
        offsets = {"rgb_offsets": self.rgb.keep(), "flow_offsets": self.flow.keep()}
        self._line({"name": video.name, "frames": len(offsets["rgb_offsets"]) - 1, **offsets})

    def leave_out(self, video: ListedVideo, reason: str) -> None:
        self.rgb.forget()
        self.flow.forget()
        self._line({"name": video.name, "path": video.path, "reason": reason})

    def check(self) -> None:
        """Raises CancelledError when `remove_parts` has called the work off."""
        if not self._manifest.exists():
            raise CancelledError

    def _line(self, entry: Mapping) -> None:
        self._lines.write(json.dumps(entry) + "\n")
        self._lines.flush()

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                closed = [self.rgb.close(), self.flow.close()]
                names = [path.name for path in self._parts]
                self._line({"files": dict(zip(names, closed, strict=False))})
                _sync(self._lines)
                for path, part in self._parts.items():  # the manifest is the last
                    _rename(part, path)
        finally:
            for file in (self.rgb.file, self.flow.file, self._lines):
                with contextlib.suppress(OSError):  # on a full disk, of which is told already
                    file.close()
            for part in self._parts.values():
                part.unlink(missing_ok=True)


class _RecordFile:
    """A file of records that knows its offsets and digest and can forget the last video."""

    def __init__(self, path: Path):
        self.file = path.open("wb")
        self._offsets = [0]
        self._digest = hashlib.sha256()
        self._kept = self._digest.copy()

    def append(self, **features: bytes | int) -> None:
        record = encode_record(encode_example(features))
        self.file.write(record)
        self._digest.update(record)
        self._offsets.append(self._offsets[-1] + len(record))

    def keep(self) -> list[int]:
        offsets, self._offsets = self._offsets, self._offsets[-1:]
        self._kept = self._digest.copy()
        return offsets

    def forget(self) -> None:
        self._offsets = self._offsets[:1]
        self._digest = self._kept.copy()
        self.file.seek(self._offsets[0])
        self.file.truncate()

    def close(self) -> dict:
        _sync(self.file)
        return {"bytes": self._offsets[0], "sha256": self._digest.hexdigest()}


def tally(path: Path) -> tuple[int, int, int]:
    """Videos seen, frames kept and videos left out by a manifest, finished or being written."""
    entries = list(_entries(path))
    frames = [entry["frames"] for entry in entries if "frames" in entry]
    left_out = sum("reason" in entry for entry in entries)
    return len(frames) + left_out, sum(frames), left_out


def left_out(path: Path) -> list[tuple[str, str, str]]:
    """Name, path and reason of each video that a manifest leaves out."""
    return [(e["name"], e["path"], e["reason"]) for e in _entries(path) if "reason" in e]


def write_errors(folder: Path, errors: Sequence[tuple[str, str, str]]) -> bytes:
    data = _table(("name", "path", "reason"), errors)
    _write(folder / "errors.csv", data)
    return data


def read_errors(folder: Path) -> list[tuple[str, str, str]]:
    """Inverse of `write_errors`."""
    with (folder / "errors.csv").open(newline="") as file:
        return [(name, path, reason) for name, path, reason in list(csv.reader(file))[1:]]


def parts_in_flight(folder: Path) -> list[Path]:
    return list(folder.glob(".shard-*.part"))


def remove_parts(folder: Path) -> None:
    """Removes what was being written; writers that are still at it stop at their next frame."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def _entries(path: Path) -> Iterator[dict]:
    with path.open() as lines:
        yield from (json.loads(line) for line in lines if line.endswith("\n"))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second preparation out of the folder; the lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another preparation is writing here") from None
        yield
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
        faults = _differences(plan, found, but=LIBRARIES)
        _refuse(folder, faults + _damage(folder, found.get("files", {})))
        _remove_hidden(folder)
        return True
    if started.is_file():
        _refuse(folder, _differences(plan, _load(started)))
        remove_parts(folder)
        return False
    strangers = sorted({path.name for path in folder.iterdir()} - {".plan.json.part"})
    if strangers:
        _refuse(folder, [f"not empty and not a preparation: holds {strangers[0]}"])
    _write(started, json.dumps(plan, indent=1).encode())
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


def _differences(plan: Mapping, found: Mapping, but: tuple[str, ...] = ()) -> list[str]:
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
        for entry in _entries(path):
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

    rgb, flow = (
        np.concatenate([np.asarray(entries[v.name][f"{family}_offsets"], np.int64) for v in kept])
        for family in FAMILIES
    )
    index = io.BytesIO()
    np.savez(index, rgb_offsets=rgb, flow_offsets=flow)
    shards = {
        video.name: shard
        for shard, share in enumerate(shard_shares(len(videos)))
        for video in videos[share]
    }
    columns = ("name", "path", "class", "label", "group", "frames", "fields", "shard")
    rows = [
        (v.name, v.path, v.class_name, v.label, v.group, n, n - 1, shards[v.name], *v.splits)
        for v in kept
        for n in (entries[v.name]["frames"],)
    ]
    joined = {
        "index.npz": index.getvalue(),
        "videos.csv": _table((*columns, *plan["splits"]), rows),
    }
    for name, data in joined.items():
        _write(folder / name, data)
    joined["errors.csv"] = write_errors(folder, errors)
    for name, data in joined.items():
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    frames = sum(entries[video.name]["frames"] for video in kept)
    files = dict(sorted(files.items()))
    shaped = json.dumps([plan["parameters"], files], sort_keys=True)
    dataset = {
        **plan,
        "videos": len(kept),
        "errors": len(errors),
        "rgb_frames": frames,
        "flow_fields": frames - len(kept),
        "shards": len(shard_shares(len(videos))),
        "files": files,
        "digest": hashlib.sha256(shaped.encode()).hexdigest(),
    }
    _write(folder / "dataset.json", (json.dumps(dataset, indent=1) + "\n").encode())
    _remove_hidden(folder)
    return dataset


def _remove_hidden(folder: Path) -> None:
    remove_parts(folder)
    for path in (*folder.glob(".shard-*.jsonl"), folder / ".plan.json"):
        path.unlink(missing_ok=True)


def _table(header: Sequence[str], rows: Sequence[Sequence]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name.removeprefix('.')}.part")
    with part.open("wb") as file:
        file.write(data)
        _sync(file)
    _rename(part, path)


def _rename(part: Path, path: Path) -> None:
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)  # so that a power cut keeps renames in their order
    os.close(folder)


def _sync(file) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
