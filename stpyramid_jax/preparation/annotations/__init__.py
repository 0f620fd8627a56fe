"""Which videos there are, their classes and splits, and whether that can be believed."""

from stpyramid_jax.preparation.annotations.folder import read_folder
from stpyramid_jax.preparation.annotations.hmdb51 import read_hmdb51
from stpyramid_jax.preparation.annotations.listing import VIDEO_SUFFIXES, Annotations, ListedVideo
from stpyramid_jax.preparation.annotations.table import read_table
from stpyramid_jax.preparation.annotations.ucf101 import read_ucf101

__all__ = [
    "VIDEO_SUFFIXES",
    "Annotations",
    "ListedVideo",
    "read_folder",
    "read_hmdb51",
    "read_table",
    "read_ucf101",
]
