"""Writing shards so that a kill at any instant costs work, never bytes.

For each finished shard the folder holds `.shard-NNNNN.jsonl`: a line for each video (its frames and
offsets, or why it was left out) and a last line with the sizes and digests of the shard's files.
Files being written are called `.*.part` and are renamed when they are whole.
"""

import contextlib
import hashlib
import itertools
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path

from stpyramid_jax.disk import rename, sync
from stpyramid_jax.preparation.annotations import ListedVideo
from stpyramid_jax.records import encode_example, encode_record, shard_file

VIDEOS_PER_SHARD = 32


def shard_shares(num_videos: int) -> list[slice]:
    """Contiguous, even shares of at most `VIDEOS_PER_SHARD` videos; 16 shards if there are as many
    videos, so that workers share a small list too. Depends on the number of videos alone."""
    shards = max(-(-num_videos // VIDEOS_PER_SHARD), min(num_videos, 16))
    edges = [num_videos * shard // shards for shard in range(shards + 1)]
    return [slice(*edge) for edge in itertools.pairwise(edges)]


def manifest_file(shard: int) -> str:
    return f".shard-{shard:05d}.jsonl"


class ShardWriter:
    """Context that writes one shard of all families and its manifest, or nothing.

    Each video is appended to `files`, a file of records for each family, and then kept or left out.
    """

    def __init__(self, folder: Path, name: str, shard: int, shards: int, families: Sequence[str]):
        # The token keeps apart writers of one shard, such as one left over on a lost machine.
        token = uuid.uuid4().hex
        files = [shard_file(name, family, shard, shards) for family in families]
        self._parts = {
            folder / file: folder / f".{file.removeprefix('.')}.{token}.part"
            for file in (*files, manifest_file(shard))
        }
        *paths, self._manifest = self._parts.values()
        self._lines = self._manifest.open("w")  # first: whoever removes parts removes this one
        self.files = dict(zip(families, map(_RecordFile, paths), strict=True))

    def __enter__(self):
        return self

    def keep(self, video: ListedVideo) -> None:
        offsets = {f"{family}_offsets": file.keep() for family, file in self.files.items()}
        self._line({"name": video.name, "frames": len(offsets["rgb_offsets"]) - 1, **offsets})

    def leave_out(self, video: ListedVideo, reason: str) -> None:
        for file in self.files.values():
            file.forget()
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
            *_, manifest = self._parts
            if kind is None and not manifest.exists():  # else another writer was first
                closed = [file.close() for file in self.files.values()]
                names = [path.name for path in self._parts]
                self._line({"files": dict(zip(names, closed, strict=False))})
                sync(self._lines)
                for path, part in self._parts.items():  # the manifest is the last
                    rename(part, path)
        finally:
            for file in (*(records.file for records in self.files.values()), self._lines):
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
        sync(self.file)
        return {"bytes": self._offsets[0], "sha256": self._digest.hexdigest()}


def tally(path: Path) -> tuple[int, int, int]:
    """Videos seen, frames kept and videos left out by a manifest, finished or being written."""
    entries = list(entries_of(path))
    frames = [entry["frames"] for entry in entries if "frames" in entry]
    left_out = sum("reason" in entry for entry in entries)
    return len(frames) + left_out, sum(frames), left_out


def left_out(path: Path) -> list[tuple[str, str, str]]:
    """Name, path and reason of each video that a manifest leaves out."""
    return [(e["name"], e["path"], e["reason"]) for e in entries_of(path) if "reason" in e]


def parts_in_flight(folder: Path) -> list[Path]:
    return list(folder.glob(".shard-*.part"))


def remove_parts(folder: Path) -> None:
    """Removes what was being written; writers that are still at it stop at their next frame."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def remove_broken(folder: Path) -> None:
    """Removes manifests that are damaged, or whose files are: those shards are written again."""
    for manifest in folder.glob(".shard-*.jsonl"):
        whole = False
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            *_, last = entries_of(manifest)
            files = last["files"].items()
            whole = all((folder / name).stat().st_size == file["bytes"] for name, file in files)
        if not whole:
            manifest.unlink()


def entries_of(path: Path) -> Iterator[dict]:
    with path.open() as lines:
        yield from (json.loads(line) for line in lines if line.endswith("\n"))
