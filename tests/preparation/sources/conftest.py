"""Frames and fields as images, as the programs lay them out."""

from typing import Any

import cv2
import numpy as np
import pytest

from stpyramid_jax.preparation.sources.decode import frames
from stpyramid_jax.preparation.sources.flow import flow_fields
from stpyramid_jax.preparation.sources.videos import Videos

SIZE = (64, 48)
CLIP = "Jump/v_Jump_g01_c01.avi"


def decoded(image) -> Any:
    return cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.fixture(scope="session")
def prepared(clips):
    """Records of a video file as {"rgb": [...], "flow": [...]}, and what they were encoded from."""
    records = {"rgb": [], "flow": []}
    for family, image in Videos(clips, "dis", ("flow",)).records(CLIP, SIZE):
        records[family].append(image)
    images = list(frames(clips / CLIP, SIZE))
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    fields = [field for (field,) in flow_fields(grey, "dis")]
    return records, [cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in images], fields


# Names of frame k, and of the x and y of the field from frame k to k + 1; k counts from 0.
# dense_flow writes no image of the first frame; the field from it comes with the second.
LAYOUTS = {
    "dense_flow": ("img_{:05d}", 0, "flow_x_{:05d}", "flow_y_{:05d}", 1),
    "denseflow": ("img_{:05d}", 0, "flow_x_{:05d}", "flow_y_{:05d}", 0),
    "opencv": ("img_{:05d}", 1, "flow_x_{:05d}", "flow_y_{:05d}", 0),
    "image": ("image_{:04d}", 1, "flow_x_{:04d}", "flow_y_{:04d}", 1),
    "unpadded": ("img_{}", 1, "flow_x_{}", "flow_y_{}", 1),
}


def write_images(folder, images, fields, layout="denseflow", suffix=".png"):
    """Writes one video's images, lossless or as the programs do."""
    rgb, first_frame, x, y, first_field = LAYOUTS[layout]
    folder.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(images):
        if layout != "dense_flow" or k > 0:
            cv2.imwrite(str(folder / (rgb.format(k + first_frame) + suffix)), image)
    for k, field in enumerate(fields):
        for name, component in zip((x, y), field, strict=True):
            cv2.imwrite(str(folder / (name.format(k + first_field) + suffix)), component)


def write_archives(rgb, flow, name, images, fields, suffix=".png"):
    """The same as the archives of twostreamfusion."""
    for folder, series in ((rgb, images), (flow / "u", fields), (flow / "v", fields)):
        (folder / name).mkdir(parents=True)
        for k, image in enumerate(series):
            image = {"u": image[0], "v": image[1]}.get(folder.name, image)
            cv2.imwrite(str(folder / name / f"frame{k + 1:06d}{suffix}"), image)


def by_family(source, path=CLIP, size=SIZE):
    records = {"rgb": [], "flow": []}
    for family, image in source.records(path, size):
        records[family].append(image)
    return records["rgb"], records["flow"]


@pytest.fixture
def folder(tmp_path, prepared):
    """A video `a` of 12 frames and 11 fields numbered from 0, and of 12 each from 1 as `b`."""
    _, images, fields = prepared
    write_images(tmp_path / "a", images[:12], fields[:11], suffix=".jpg")
    write_images(tmp_path / "b", images[:13], fields[:12], "dense_flow", ".jpg")
    return tmp_path


def cut(file):
    file.write_bytes(file.read_bytes()[:-20])
