"""Reads the views of clips into the parts of batches, what they share once."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Int

from stpyramid_jax.input import augment, sampling
from stpyramid_jax.input.config import InputConfig
from stpyramid_jax.input.reading import Source, read_views
from stpyramid_jax.input.sharing import Once, Packing


class ViewReader:
    """Reads views, crops x positions of each video, in the order and parts of a `Packing`.

    A batch of R parts has places for R P views and R S snippets.

    Args:
      views, snippets: P and S, or None for what suits the clips.
      mine: whether a part is read here, by its number.

    Attributes:
      places: for views, over all batches.
    """

    def __init__(
        self,
        source: Source,
        videos: Int[np.ndarray, " videos"],
        config: InputConfig,
        positions: int,
        crops: int,
        views: int,
        snippets: int | None,
        mine: Callable[[int], bool],
    ):
        self._abouts, self._videos, self._config = source.videos, videos, config
        self._positions, self._crops, self._views = positions, crops, views
        self._motion = [name for name in config.inputs if name != "rgb"]  # one at most
        starts = [
            [sample.starts if self._motion else () for sample in self._samples(clip)]
            for clip in range(len(videos))
        ]
        packing = Packing(starts, crops, views, snippets)
        self._snippets, self.places = packing.snippets, len(packing) * views
        self._part = functools.lru_cache(maxsize=64)(packing.part)
        uses: Counter[int] = Counter()
        for video, count in zip(
            videos.tolist(), packing.uses(filter(mine, range(len(packing)))), strict=True
        ):
            uses[video] += int(count)
        self._source = Once(source, uses)

    def shapes(self, parts: int) -> dict[str, tuple[int, ...]]:
        """Of the images of a batch of so many parts, without an axis for the parts."""
        return {
            name: (parts * self._snippets, *shape[1:])
            if name in self._motion
            else (parts * self._views, *shape)
            for name, shape in self._config.shapes.items()
        }

    def read(self, place: int, row: int, images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Writes what is new of the view at a place, over all batches, and gives what it is.

        Args:
          row: of the place in its batch.
          images: of the batch; a view's snippets are written unless one before it in its part has
            them. The first of a part also clears what none of the part writes.
        """
        views, number = self._part(place // self._views), place % self._views
        first = row // self._views * self._snippets
        if number == 0:
            used = first + sum(len(view.new) for view in views)
            for name, array in images.items():
                if name in self._motion:
                    array[used : first + self._snippets] = 0
                else:
                    array[row + len(views) : row + self._views] = 0
        if number >= len(views):
            return self._about(0, 0, (0,) * self._config.snippets, mask=False)
        view = views[number]
        video = int(self._videos[view.clip])
        sample = dataclasses.replace(self._samples(view.clip)[view.position], starts=view.new)
        new = slice(first + view.first, first + view.first + len(view.new))
        out = {
            name: array[None, new] if name in self._motion else array[row : row + 1]
            for name, array in images.items()
            if view.new or name not in self._motion
        }

        def box(size: tuple[int, int]) -> list[augment.View]:
            return [augment.test_views(size, self._config.test_scale, self._crops)[view.crop]]

        with self._source.clip(video):
            read_views(self._source, video, sample, self._config, box, out)
        return self._about(self._abouts[video].label, video, view.snippets, mask=True)

    def _about(
        self, label: int, video: int, snippets: tuple[int, ...], mask: bool
    ) -> dict[str, np.ndarray]:
        about = {"label": label, "video": video} | ({"snippets": snippets} if self._motion else {})
        arrays = {name: np.array(value, np.int32) for name, value in about.items()}
        return {**arrays, "mask": np.array(mask)}

    def _samples(self, clip: int) -> list[sampling.Sample]:
        config, about = self._config, self._abouts[self._videos[clip]]
        return sampling.test_samples(
            about.fields, self._positions, config.snippets, config.snippet_length, config.test_tau
        )
