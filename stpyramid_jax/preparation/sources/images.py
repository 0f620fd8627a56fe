"""Folders of images as a source of records: frames and flow that other programs have written.

An image is a frame, or the x or y displacements v of a flow field as grey bytes 255 (v + 20) / 40.
Three programs' folders are read. `<video>` is a listed path without its suffix, with or without the
folders it begins with: `PullUps/v_PullUps_g01_c01` or `v_PullUps_g01_c01`.

dense_flow, of TSN: `<video>/img_00001.jpg` (or `image_`), `flow_x_00001.jpg`, `flow_y_00001.jpg`.
  Each frame comes with the field that leads to it, so N of each, numbered from 1, and no image of
  the video's first frame. Field 1 leads from that one and is left out.
  (https://github.com/yjxiong/dense_flow, src/dense_flow_gpu.cpp, src/common.cpp)
denseflow, for the rawframes of MMAction2: the same names, N frames and N - 1 fields, field k from
  frame k to k + 1. Both are numbered from 0, frames from 1 where MMAction2 wrote them by OpenCV.
  Displacements are bounded by 32 instead of 20 pixels unless it ran with `-b=20`, as MMAction2 runs
  it; files do not tell. (https://github.com/open-mmlab/denseflow, src/denseflow_gpu.cpp,
  tools/denseflow.cpp; https://github.com/open-mmlab/mmaction2, tools/data/build_rawframes.py)
gpu_flow, for the archives of twostreamfusion: `<video>/frame000001.jpg`, and in another folder
  `u/<video>/frame000001.jpg` (x) and `v/<video>/frame000001.jpg` (y). N frames and N - 1 fields,
  field k from frame k to k + 1, numbered from 1; the shorter side has 256 pixels, so UCF101 is
  340x256. (https://github.com/feichtenhofer/gpu_flow, compute_flow.cpp as first committed)
"""

import contextlib
import hashlib
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np

from stpyramid_jax.preparation.annotations.listing import refuse, stem_of
from stpyramid_jax.preparation.sources.decode import UnreadableVideo, resize
from stpyramid_jax.preparation.sources.flow import dequantise, quantise
from stpyramid_jax.preparation.sources.videos import jpeg

_NAME = re.compile(r"(img_|image_|frame|flow_[xy]_)([0-9]+)\.(?:jpe?g|png)", re.IGNORECASE)
_LAYOUTS: Mapping[str, Mapping[str, str]] = {
    "": {"img_": "rgb", "image_": "rgb", "frame": "rgb", "flow_x_": "x", "flow_y_": "y"},
    "u": {"frame": "x"},
    "v": {"frame": "y"},
}
"""What an image shows, by the subfolder of a folder it lies in and by how its name begins."""

_WORDS = {"rgb": "frame", "x": "x field", "y": "y field"}
_LOOKED_FOR = (
    "looked for <video>/img_00001.jpg, flow_x_00001.jpg, flow_y_00001.jpg, or "
    "<video>/frame000001.jpg, u/<video>/frame000001.jpg, v/<video>/frame000001.jpg"
)


class _Image(NamedTuple):
    kind: str
    number: int
    entry: os.DirEntry[str]

    def __str__(self):
        return f"{_WORDS[self.kind]} {self.entry.name}"


@dataclass(frozen=True)
class Images:
    """Folders of frames and flow, together or a part each; without `motion` frames alone."""

    folders: tuple[Path, ...]
    motion: tuple[str, ...] = ("flow",)

    def check(self) -> None:
        """Raises ValueError: one line for every folder that is not there or holds no image."""
        refuse(f"{folder}: no such folder" for folder in self.folders if not folder.is_dir())
        refuse(f"{f}: holds no images; {_LOOKED_FOR}" for f in self.folders if not _has_images(f))

    def holds(self, path: str) -> bool:
        """Whether there is any image of the listed video `path`."""
        return any(True for _ in self._images(path))

    def marks(self, paths: Iterable[str]) -> list[str]:
        """For each listed video a digest of its images' kinds, numbers and bytes on disk.

        It takes some 3 microseconds an image, which is half a minute for UCF101.

        Raises:
          ValueError: one line for every video whose frames or fields lie in two places, every place
            that is of two videos, and each kind of image that none of the videos has.
        """
        marks, faults, owners, absent = [], [], {}, set(_WORDS if self.motion else ("rgb",))
        for path in paths:
            seen, places = [], defaultdict(dict)  # places of a kind, in order
            for image in self._images(path):
                seen.append((image.kind, image.number, image.entry.stat().st_size))
                places[image.kind][os.path.dirname(image.entry.path)] = True
            marks.append(hashlib.sha256(repr(sorted(seen)).encode()).hexdigest())
            absent -= places.keys()
            for kind, found in places.items():
                if len(found) > 1:
                    faults.append(f"{path}: has {_WORDS[kind]}s in {' and in '.join(found)}")
            for place in dict.fromkeys(itertools.chain(*places.values())):
                if (owner := owners.setdefault(place, path)) != path:
                    faults.append(f"{place}: is of {owner} and of {path}; use folders of classes")
        folders = ", ".join(map(str, self.folders))
        for kind in sorted(absent):
            faults.append(f"{folders}: no {_WORDS[kind]}s of the listed videos; {_LOOKED_FOR}")
        refuse(faults)
        return marks

    def records(self, path: str, size: tuple[int, int]) -> Iterator[tuple[str, bytes]]:
        """Family and JPEG of each record of a video: frame 0, field 0, frame 1, ..., frame N - 1.

        A frame that is a JPEG of `size` is taken over as it is; others are resized as
        `decode.RESIZE` says. x and y are joined to one JPEG. Where they were JPEG of the same
        quality, this changed TV-L1 flow of real clips by 0.016 bytes in the mean and by 2 at most
        (a byte is 0.16 pixels).

        Fields of another size are resized too, and their displacements with them: x by 340/320 from
        320x240, which MMAction2 keeps, to 340x256, which published flow was computed at. They are
        clipped at 20 pixels again; those that were clipped before cannot be told.

        Raises:
          UnreadableVideo: an image is missing, does not decode or has another size than those
            before it, or frames and fields do not fit.
        """
        try:
            frames, fields = _sequences(self._images(path), bool(self.motion))
            components = _decoded(fields, cv2.IMREAD_GRAYSCALE)
            pairs = zip(components, components, strict=True)
            for data, frame in _decoded(frames, cv2.IMREAD_COLOR):
                whole = data.startswith(b"\xff\xd8") and _stored(data) == (*size[::-1], 3)  # a JPEG
                yield "rgb", data if whole else jpeg(resize(frame, size))
                for (_, x), (_, y) in itertools.islice(pairs, 1):  # none after the last frame
                    yield "flow", jpeg(resized_field(x, y, size))
        except OSError as error:
            raise UnreadableVideo(str(error)) from error

    def _images(self, path: str) -> Iterator[_Image]:
        """All images of a listed video, in the order of the file system."""
        for place, kinds in self._places(path).items():
            if not os.path.isdir(place):
                continue
            with os.scandir(place) as entries:
                for entry in entries:
                    match = _NAME.fullmatch(entry.name)
                    kind = kinds.get(match[1].lower()) if match else None
                    if match and kind and entry.is_file():
                        yield _Image(kind, int(match[2]), entry)

    def _places(self, path: str) -> Mapping[Path, Mapping[str, str]]:
        """Where images of a listed video may lie, and what they show there."""
        parts = PurePosixPath(stem_of(path)).parts
        places = {}
        for folder, layout in itertools.product(self.folders, _LAYOUTS):
            for first in range(len(parts)):
                place = folder.joinpath(layout, *parts[first:])
                places.setdefault(place, _LAYOUTS[layout])  # a class may be called u
        return places


def _has_images(folder: Path) -> bool:
    patterns = ("*/*", "*/*/*", "*/*/*/*")  # <video>, <Class>/<video>, u/<Class>/<video>
    files = itertools.chain.from_iterable(map(folder.glob, patterns))
    return any(_NAME.fullmatch(file.name) for file in files)


def _sequences(images: Iterable[_Image], flow: bool) -> tuple[list[_Image], list[_Image]]:
    """Frames, and N - 1 fields of two images each, as x, y, x, y, ..., all in order."""
    kinds = {"rgb": [], "x": [], "y": []}
    for image in images:
        kinds[image.kind].append(image)
    frames = _in_order(kinds["rgb"])
    if not frames:
        raise UnreadableVideo("has no frames")
    if not flow:
        return frames, []
    x, y = _in_order(kinds["x"]), _in_order(kinds["y"])
    if [image.number for image in x] != [image.number for image in y]:
        raise UnreadableVideo(f"x fields {_numbers(x)} do not fit y fields {_numbers(y)}")
    if len(x) == len(frames) and _by_dense_flow(x[0]) and _by_dense_flow(frames[0]):
        x, y = x[1:], y[1:]  # the first leads from a frame that is not there
    if len(x) != len(frames) - 1:
        raise UnreadableVideo(f"fields {_numbers(x)} do not fit frames {_numbers(frames)}")
    return frames, list(itertools.chain(*zip(x, y, strict=True)))


def _by_dense_flow(first: _Image) -> bool:
    return first.number == 1 and not first.entry.name.lower().startswith("frame")


def _in_order(images: Sequence[_Image]) -> list[_Image]:
    """Sorts images by number; they must count from 0 or 1."""
    images = sorted(images, key=lambda image: (image.number, image.entry.name))
    if images and images[0].number > 1:
        raise UnreadableVideo(f"begins with {images[0]}")
    for before, after in itertools.pairwise(images):
        if after.number != before.number + 1:
            raise UnreadableVideo(f"{before} is followed by {after.entry.name}")
    return images


def _numbers(images: Sequence[_Image]) -> str:
    return f"{images[0].number} to {images[-1].number}" if images else "(none)"


def _decoded(images: Iterable[_Image], mode: int) -> Iterator[tuple[bytes, np.ndarray]]:
    """Content and pixels of each image, uint8 [h, w] or blue, green, red [h, w, 3]."""
    size = None
    for image in images:
        data = Path(image.entry.path).read_bytes()
        pixels = None
        with contextlib.suppress(cv2.error):  # of what is empty or claims an absurd size
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
        if pixels is None:
            raise UnreadableVideo(f"{image} does not decode")
        height, width = pixels.shape[:2]
        size = size or (width, height)
        if (width, height) != size:
            raise UnreadableVideo(f"{image} is {width}x{height}, not {size[0]}x{size[1]}")
        yield data, pixels


def _stored(data: bytes) -> tuple[int, ...]:
    """Shape of an image as it is stored: grey has no channels, and nothing is turned."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return () if pixels is None else pixels.shape


def resized_field(x: np.ndarray, y: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """x over y as bytes [2 h, w], with displacements in pixels of `size`."""
    if x.shape[::-1] == size:
        return np.concatenate([x, y])
    flow = resize(dequantise(np.stack([x, y], -1)), size)
    scale = np.divide(size, x.shape[::-1], dtype=np.float32)
    return quantise(np.concatenate(np.moveaxis(flow * scale, -1, 0)))
