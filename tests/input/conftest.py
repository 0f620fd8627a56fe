"""Tiny shards written straight from the layout, of images that say where they are from."""

import csv
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest

from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.records import FORMAT, encode_example, encode_record

SIZE = (48, 64)  # height, width


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


@dataclass
class Written:
    """A data set on disk, and the byte range of each record: (file, video, number, start, end)."""

    directory: Path
    records: list[tuple[str, int, int, int, int]] = field(default_factory=list)

    @staticmethod
    def rgb(video: int, frame: int) -> np.ndarray:
        """Red grows to the right, green downwards, blue with video and frame."""
        y, x = np.mgrid[: SIZE[0], : SIZE[1]]
        blue = np.full_like(x, (40 * video + 12 * frame) % 256)
        return np.stack([x * 3, y * 3, blue], -1).astype(np.uint8)

    @staticmethod
    def flow(video: int, number: int) -> np.ndarray:
        """x grows to the right and with the number, y downwards and with the video."""
        y, x = np.mgrid[: SIZE[0], : SIZE[1]]
        return np.stack([x * 2 + 6 * number, y * 2 + 20 * video]).astype(np.uint8)

    @staticmethod
    def warped(video: int, number: int) -> np.ndarray:
        """As `flow`, downwards where that is to the right, and the other way round."""
        y, x = np.mgrid[: SIZE[0], : SIZE[1]]
        return np.stack([y * 2 + 6 * number, x * 2 + 20 * video]).astype(np.uint8)


def _write_shards(
    directory: Path, frames: list[int], shards: int = 2, families=("rgb", "flow")
) -> Written:
    """Videos of the given numbers of frames, alternating between two classes and two splits."""
    written = Written(directory)
    directory.mkdir(parents=True, exist_ok=True)
    per_shard = -(-len(frames) // shards)
    contents: dict[str, bytes] = {}
    offsets: dict[str, list[int]] = {family: [] for family in families}
    rows = []
    for video, count in enumerate(frames):
        name, label, shard = f"clip{video}", video % 2, video // per_shard
        for family in families:
            number = count if family == "rgb" else count - 1
            file = f"tiny-{family}.tfrecord-{shard:05d}-of-{shards:05d}"
            data = contents.get(file, b"")
            offsets[family].append(len(data))
            for i in range(number):
                image = getattr(written, family)(video, i)
                image = image[..., ::-1] if family == "rgb" else image.reshape(-1, SIZE[1])
                example = {"image": jpeg(image), "video": name.encode(), "frame": i, "label": label}
                start = len(data)
                data += encode_record(encode_example(example))
                offsets[family].append(len(data))
                written.records.append((file, video, i, start, len(data)))
            contents[file] = data
        rows.append(
            {
                "name": name,
                "path": f"{name}.avi",
                "class": "ab"[label],
                "label": label,
                "group": f"g{video}",
                "frames": count,
                "fields": count - 1,
                "shard": shard,
                "split1": "train" if video % 3 else "test",
                "split2": "train" if video == 0 else "",
            }
        )
    for file, data in contents.items():
        (directory / file).write_bytes(data)
    np.savez(
        directory / "index.npz",
        **{f"{family}_offsets": np.array(o, np.int64) for family, o in offsets.items()},
    )
    with open(directory / "videos.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    (directory / "errors.csv").write_text("name,path,reason\n")
    files = {
        path.name: {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(directory.iterdir())
    }
    info = {
        "format": FORMAT,
        "name": "tiny",
        "classes": ["a", "b"],
        "splits": ["split1", "split2"],
        "families": list(families),
        "videos": len(frames),
        "rgb_frames": sum(frames),
        "flow_fields": sum(frames) - len(frames),
        "shards": shards,
        "parameters": {"size": [SIZE[1], SIZE[0]]},
        "files": files,
        "digest": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
    }
    (directory / "dataset.json").write_text(json.dumps(info))
    return written


@pytest.fixture(scope="session")
def write_shards():
    return _write_shards


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Written:
    """Seven videos; the third has fewer fields than a snippet of 4, the fifth a single field."""
    return _write_shards(tmp_path_factory.mktemp("tiny"), [16, 12, 4, 20, 2, 9, 14])


@pytest.fixture
def shards(written):
    return Shards(written.directory)
