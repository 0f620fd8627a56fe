"""The plan of a preparation: everything that shapes its bytes, written into `dataset.json`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple

import av
import cv2
import numpy as np

from stpyramid_jax.preparation.annotations import Annotations
from stpyramid_jax.preparation.choices import Choices
from stpyramid_jax.preparation.jobs import MIN_FRAMES, Source
from stpyramid_jax.preparation.sources.decode import RESIZE
from stpyramid_jax.preparation.sources.flow import flow_parameters
from stpyramid_jax.preparation.sources.videos import JPEG_QUALITY
from stpyramid_jax.records import FORMAT


def make_plan(listed: Annotations, source: Source, choices: Choices) -> dict:
    """The plan for listed videos, with marks by which one that was replaced since is noticed."""
    marks = source.marks(video.path for video in listed.videos)
    rows = json.dumps([(*astuple(v), m) for v, m in zip(listed.videos, marks, strict=True)])
    return {
        "format": FORMAT,
        "name": listed.name,
        "classes": list(listed.classes),
        "splits": list(listed.splits),
        "families": list(choices.families),
        "parameters": {
            "size": list(choices.size),
            "resize": RESIZE,
            "jpeg_quality": JPEG_QUALITY,
            "min_frames": MIN_FRAMES,
            "flow": flow_parameters(choices.method, choices.families),
            "listed_videos": len(listed.videos),
            "video_list_sha256": hashlib.sha256(rows.encode()).hexdigest(),
            "libraries": libraries(),
        },
    }


def libraries() -> Mapping[str, str]:
    """Versions of the libraries that shape the bytes of frames and fields."""
    return {"av": av.__version__, "opencv": cv2.__version__, "numpy": np.__version__}
