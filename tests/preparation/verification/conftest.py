"""Prepared folders, whole and altered: their descriptions agree with them again."""

import hashlib
import json
import shutil

import cv2
import numpy as np
import pytest

from stpyramid_jax.preparation.annotations import ListedVideo
from stpyramid_jax.preparation.choices import Choices
from stpyramid_jax.preparation.run import prepare
from stpyramid_jax.preparation.writing import output, shards

SIZE = (64, 48)  # of what is prepared here, width and height


def jpeg(image):
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def field(x, y):
    """The bytes of a field of one displacement."""
    planes = [np.full(SIZE[::-1], round(255 * (v + 20) / 40 + 1e-9), np.uint8) for v in (x, y)]
    return jpeg(np.concatenate(planes))


def build(folder, clips, families=("rgb", "flow"), colour=(10, 200, 90), first=0):
    """A prepared folder of clips: (name, class) to the bytes of their fields.

    Frames have one colour and are counted from `first`.
    """
    folder.mkdir()
    classes = sorted({name for _, name in clips})
    plan = {
        "format": 2,
        "name": "set",
        "classes": classes,
        "splits": ["split1"],
        "families": list(families),
        "parameters": {"size": list(SIZE), "flow": {"bound": 20.0}},
    }
    videos = [
        ListedVideo(name, f"{name}.avi", kind, classes.index(kind), name, ("train",))
        for name, kind in clips
    ]
    output.begin(folder, plan)
    shares = shards.shard_shares(len(videos))
    frame = jpeg(np.full((*SIZE[::-1], 3), colour[::-1], np.uint8))
    for number, share in enumerate(shares):
        with shards.ShardWriter(folder, "set", number, len(shares), families) as shard:
            for video in videos[share]:
                common = {"video": video.name.encode(), "label": video.label}
                fields = clips[video.name, video.class_name]
                for k in range(len(fields) + 1):
                    shard.files["rgb"].append(image=frame, frame=first + k, **common)
                for family in families[1:]:
                    for k, image in enumerate(fields):
                        shard.files[family].append(image=image, frame=first + k, **common)
                shard.keep(video)
    output.finalise(folder, plan, videos)
    return folder


def sign(folder, **changes):
    """Makes `dataset.json` agree with the files as they are, and with `changes`."""
    dataset = json.loads((folder / "dataset.json").read_text()) | changes
    for name in dataset["files"]:
        data = (folder / name).read_bytes()
        dataset["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    dataset["digest"] = output.digest_of(dataset["parameters"], dataset["files"])
    (folder / "dataset.json").write_text(json.dumps(dataset))


def edit(folder, *replacements):
    """Replaces words of `videos.csv` and signs the folder again."""
    text = (folder / "videos.csv").read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    (folder / "videos.csv").write_text(text)
    sign(folder)


@pytest.fixture(scope="session")
def prepared(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepare(Choices("folder", clips, out, flow="dis", size=SIZE, workers=1))
    return out


@pytest.fixture
def copy(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "copy")
