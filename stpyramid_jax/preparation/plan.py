"""The plan of a preparation: everything that shapes its bytes, written into `dataset.json`."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple

import av
import cv2
import numpy as np

from stpyramid_jax.preparation.annotations import Annotations
from stpyramid_jax.preparation.decode import RESIZE
from stpyramid_jax.preparation.flow import flow_parameters
from stpyramid_jax.preparation.jobs import MIN_FRAMES, Source
from stpyramid_jax.preparation.videos import JPEG_QUALITY
from stpyramid_jax.records import FORMAT


def make_plan(
    listed: Annotations, source: Source, size: tuple[int, int], flow: str, families: Sequence[str]
) -> dict:
    """The plan for listed videos, with sizes by which one that was replaced since is noticed."""
    sizes = source.sizes(video.path for video in listed.videos)
    rows = json.dumps([(*astuple(v), n) for v, n in zip(listed.videos, sizes, strict=True)])
    return {
        "format": FORMAT,
        "name": listed.name,
        "classes": list(listed.classes),
        "splits": list(listed.splits),
        "families": list(families),
        "parameters": {
            "size": list(size),
            "resize": RESIZE,
            "jpeg_quality": JPEG_QUALITY,
            "min_frames": MIN_FRAMES,
            "flow": flow_parameters(flow, families),
            "listed_videos": len(listed.videos),
            "video_list_sha256": hashlib.sha256(rows.encode()).hexdigest(),
            "libraries": libraries(),
        },
    }


def libraries() -> Mapping[str, str]:
    """Versions of the libraries that shape the bytes of frames and fields."""
    return {"av": av.__version__, "opencv": cv2.__version__, "numpy": np.__version__}
