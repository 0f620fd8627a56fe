"""Small clips and lists to prepare."""

from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest


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
