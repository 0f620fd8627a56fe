"""One sample from a source of clips: each image decoded once, its views written where they stay."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int, Int64, UInt8

from stpyramid_jax.input import augment, sampling
from stpyramid_jax.input.augment import View
from stpyramid_jax.input.config import InputConfig
from stpyramid_jax.input.tfrecord import Video


class Source(Protocol):
    """Where clips come from: `tfrecord.Shards`, or one video that is being predicted.

    It has records of some `families`; its `directory` is named where one is lacking.
    """

    @property
    def directory(self) -> Path: ...

    @property
    def families(self) -> Sequence[str]: ...

    @property
    def videos(self) -> Sequence[Video]: ...

    def rgb(self, video: int, frame: int) -> UInt8[np.ndarray, "h w 3"]: ...

    def flow(
        self, video: int, start: int, length: int, family: str = "flow"
    ) -> Iterable[UInt8[np.ndarray, "2 h w"]]: ...


def check(source: Source, videos: Int[np.ndarray, " videos"], config: InputConfig) -> None:
    """Raises ValueError where the videos have not what a sample is made of."""
    if not set(config.families) <= set(source.families):
        there = " and ".join(source.families)
        flag = "--warped" if config.motion == "warped" else "--flow=tvl1"
        raise ValueError(
            f"model.motion={config.motion!r}: {source.directory} has records of {there} only; "
            f"prepare it with {flag} into another folder, or choose another model.motion"
        )
    if len(videos) == 0:
        raise ValueError("no videos to read")
    for video in videos:
        if source.videos[video].fields < 1:
            raise ValueError(
                f"video {source.videos[video].name!r} has one frame and so no motion; leave it out"
            )


def read_views(
    source: Source,
    video: int,
    sample: sampling.Sample,
    config: InputConfig,
    make_views: Callable[[tuple[int, int]], Sequence[View]],
    row: Mapping[str, UInt8[np.ndarray, "views ..."]],
) -> None:
    """Writes the views of what a sample is made of, those of a frame and its fields alike.

    Args:
      make_views: from (height, width); called once.
      row: images by those names of `InputConfig.inputs` that are wanted.
    """
    numbers = sampling.numbers(
        sample, source.videos[video].fields, config.snippet_length, tuple(row)
    )
    views, crop = functools.cache(make_views), config.crop
    snippets = numbers.pop("flow", None)
    if numbers:  # of frames
        wanted = np.unique(np.concatenate([chosen.ravel() for chosen in numbers.values()]))
        frames = (source.rgb(video, number) for number in wanted.tolist())
        cuts = ((frame, views(frame.shape[:2])) for frame in frames)
        seen = _cut(cuts, augment.view_frame, (len(wanted), crop, crop, 3))
        for name, chosen in numbers.items():
            row[name][:] = seen[:, np.searchsorted(wanted, chosen)]
    if snippets is not None:  # of fields
        wanted, places = np.unique(snippets, return_inverse=True)
        fields = _fields(source, video, wanted, config.motion)
        cuts = ((field, views(field.shape[1:])) for field in fields)
        seen = _cut(cuts, augment.view_field, (len(wanted), 2, crop, crop))
        for planes, flow in zip(seen, row["flow"], strict=True):
            augment.stack_snippets(planes, places.reshape(snippets.shape), flow)


def _cut(
    cuts: Iterable[tuple[np.ndarray, Sequence[View]]],
    write: Callable[[np.ndarray, View, np.ndarray], Any],
    shape: tuple[int, ...],
) -> UInt8[np.ndarray, "views n ..."]:
    """Views of images, each while it is in the processor's cache; `shape` is that of one view."""
    seen = np.empty((0, *shape), np.uint8)
    for k, (image, views) in enumerate(cuts):
        if k == 0:
            seen = np.empty((len(views), *shape), np.uint8)
        for view, out in zip(views, seen, strict=True):
            write(image, view, out[k])
    return seen


def _fields(
    source: Source, video: int, wanted: Int64[np.ndarray, " n"], family: str
) -> Iterator[UInt8[np.ndarray, "2 h w"]]:
    """The fields of the sorted numbers `wanted`, each run of neighbours in one go."""
    for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1):
        yield from source.flow(video, int(run[0]), len(run), family)
