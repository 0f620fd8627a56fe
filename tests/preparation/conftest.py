"""Small clips and lists to prepare, and what is prepared of them."""

import csv
import json
import os
import time
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from stpyramid_jax import records
from stpyramid_jax.preparation import run
from stpyramid_jax.preparation.choices import Choices

SIZE = (64, 48)  # of what is prepared here, width and height


def clip(seed, count=16, height=48, width=64):
    """A smooth random texture that moves by (2, 1) pixels a frame; uint8 [count, h, w, 3]."""
    rng = np.random.default_rng(seed)
    scene = rng.integers(0, 256, (height + 2 * count, width + 2 * count, 3), np.uint8)
    scene = cv2.normalize(cv2.GaussianBlur(scene, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    return np.stack(
        [
            scene[count - k : count - k + height, 2 * (count - k) :][:, :width]
            for k in range(1, count + 1)
        ]
    )


def write_clip(path, images):
    """Writes RGB images as a lossless video, so that what is read can be compared exactly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25, width=images.shape[2], height=images.shape[1])
        stream.pix_fmt = "rgb24"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


def write_lists(folder, lists, classes=("ApplyEyeMakeup", "HandstandPushups", "PullUps")):
    """Writes lists as UCF101 ships them: CRLF, labels in the train lists only."""
    folder.mkdir(exist_ok=True)
    index = [f"{label} {name}" for label, name in enumerate(classes, 1)]
    texts = {"classInd": index, **{f"testlist0{n}": [] for n in (1, 2, 3)}}
    for number in (1, 2, 3):
        train, test = lists.get(number, lists[1])
        labels = {name: label for label, name in enumerate(classes, 1)}
        texts[f"trainlist0{number}"] = [f"{v} {labels.get(v.split('/')[0], 9)}" for v in train]
        texts[f"testlist0{number}"] = list(test)
    for name, lines in texts.items():
        (folder / f"{name}.txt").write_bytes("".join(f"{line}\r\n" for line in lines).encode())


@pytest.fixture(scope="session")
def make():
    """The functions of this file, for tests."""
    return SimpleNamespace(clip=clip, write_clip=write_clip, write_lists=write_lists)


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Folder `clips` of two classes with two and one clips, 16, 12 and 20 frames."""
    folder = tmp_path_factory.mktemp("videos") / "clips"
    for number, (name, count) in enumerate(
        (("Jump/v_Jump_g01_c01", 16), ("Jump/v_Jump_g02_c01", 12), ("Run/v_Run_g01_c01", 20))
    ):
        write_clip(folder / f"{name}.avi", clip(number, count))
    return folder


def tree(folder):
    """Every file, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def quick(videos, out, **settings):
    usual = {"dataset": "folder", "flow": "dis", "size": SIZE, "workers": 1}
    return run.prepare(Choices(videos=videos, out=out, **{**usual, **settings}))


def interrupted(videos, out, monkeypatch):
    """A preparation that has written its shards and ends before it joins them."""

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.output, "finalise", interrupt)
        with pytest.raises(KeyboardInterrupt):
            quick(videos, out)


def examples(out, family):
    """(row of videos.csv, example) of every record, found through the index."""
    shards = json.loads((out / "dataset.json").read_text())["shards"]
    name = json.loads((out / "dataset.json").read_text())["name"]
    with np.load(out / "index.npz") as index:
        offsets = index[f"{family}_offsets"].tolist()
    for row in rows(out / "videos.csv"):
        count = int(row["frames" if family == "rgb" else "fields"])
        mine, offsets = offsets[: count + 1], offsets[count + 1 :]
        path = out / records.shard_file(name, family, int(row["shard"]), shards)
        file = os.open(path, os.O_RDONLY)
        for number in range(count):
            payload = records.read_record(file, mine[number], mine[number + 1], path.name)
            yield row, number, records.decode_example(payload)
        os.close(file)
    assert not offsets


def wait_for_work(out, alive):
    while not list(out.glob(".shard-*.part")):
        assert alive(), "ended before it began a shard"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def unbroken(clips, tmp_path_factory):
    """Folder of the prepared clips."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    quick(clips, out)
    return out


@pytest.fixture(scope="session")
def longer(tmp_path_factory):
    """Eight clips: work for some seconds."""
    folder = tmp_path_factory.mktemp("videos") / "my clips"
    for seed in range(8):
        write_clip(folder / "AB"[seed % 2] / f"é {seed}.avi", clip(seed, 40 + seed))
    return folder


@pytest.fixture(scope="session")
def longer_files(longer, tmp_path_factory):
    """What is prepared of them, by name."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    quick(longer, out)
    return tree(out)
