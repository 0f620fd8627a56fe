"""One shard read record by record: compared with its list, a sample decoded and measured."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import cv2
import numpy as np
from google.protobuf.message import DecodeError
from jaxtyping import UInt8

from stpyramid_jax.preparation.sources.flow import dequantise
from stpyramid_jax.preparation.verification.contents import PreparedVideo
from stpyramid_jax.records import decode_example, read_record

EVERY = 16  # one of so many records of a shard is decoded, beside those of its first video
TOLD = 5  # damaged records of a file that are told one by one

Held = Sequence[tuple[PreparedVideo, np.ndarray]]
"""Videos of a shard, each with the places where its records begin and the last ends."""


@dataclass(frozen=True)
class Tally:
    """Sums over the records of a family.

    Attributes:
      records, bytes: of all of them.
      decoded: the number of images that were decoded; over these, where they are fields,
      length: the sum of their mean displacements in pixels,
      clipped: the sum of the shares of their components at the bound, bytes 0 and 255,
      static: the number whose mean displacement is below one step of the quantisation,
        2 bound / 255 pixels.
    """

    records: int = 0
    bytes: int = 0
    decoded: int = 0
    length: float = 0.0
    clipped: float = 0.0
    static: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def audit_shard(
    path: Path, family: str, held: Held, parameters: Mapping
) -> tuple[list[str], Tally]:
    """A line for each damaged record, of which five are told, and sums over all of them."""
    faults, damaged, records, decoded, motion = [], 0, 0, 0, np.zeros(3)
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for video, number, start, end in _places(held):
            where = f"{path.name}: record {records} ({video.name!r:.99} {number})"
            try:
                if end > size:
                    raise ValueError(f"{where}: truncated at offset {start}: file ends at {size}")
                payload = read_record(file.fileno(), start, end, where)
                image = image_of(payload, video, number, f"{where} at offset {start}")
                if records % EVERY == 0 or video is held[0][0]:
                    array = decode(image, family, parameters, f"{where} at offset {start}")
                    decoded += 1
                    if family != "rgb":
                        motion += _motion(array, parameters["flow"]["bound"])
            except (ValueError, OSError) as error:
                damaged += 1
                faults += [str(error)] if damaged <= TOLD else []
            records += 1
    if damaged > TOLD:
        faults.append(f"{path.name}: and {damaged - TOLD} more damaged records")
    return faults, Tally(records, size, decoded, *motion.tolist())


def _places(held: Held) -> Iterator[tuple[PreparedVideo, int, int, int]]:
    for video, ends in held:
        for number, (start, end) in enumerate(itertools.pairwise(ends.tolist())):
            yield video, number, start, end


def image_of(payload: bytes, video: PreparedVideo, number: int, where: str) -> bytes:
    """The image of a record.

    Raises:
      ValueError: it is of another video, number or label, or no record of a shard.
    """
    try:
        example = decode_example(payload)
    except (DecodeError, IndexError):
        raise ValueError(f"{where}: no tf.train.Example of a shard") from None
    image = example.pop("image", None)
    expected = {"frame": number, "label": video.label, "video": video.name.encode()}
    if example != expected or not isinstance(image, bytes):
        found = dict(sorted(example.items()))
        raise ValueError(f"{where}: is {found!r:.199}, not {expected!r:.199}")
    return image


def decode(image: bytes, family: str, parameters: Mapping, where: str) -> UInt8[np.ndarray, "..."]:
    """A frame as blue, green, red [h, w, 3], or a field as x over y [2h, w].

    Raises:
      ValueError: the image does not decode or has another size.
    """
    width, height = parameters["size"]
    shape = (height, width, 3) if family == "rgb" else (2 * height, width)
    try:
        array = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        array = None
    if array is None or array.shape != shape:
        found = "no image" if array is None else f"an image of shape {array.shape}"
        raise ValueError(f"{where}: {found}, not one of {shape}")
    return array


def _motion(field: UInt8[np.ndarray, "2h w"], bound: float) -> tuple[float, float, float]:
    x, y = dequantise(field.reshape(2, -1), bound)
    length = float(cv2.magnitude(x, y).mean())
    clipped = float(((field == 0) | (field == 255)).mean())
    return length, clipped, float(length < 2 * bound / 255)
