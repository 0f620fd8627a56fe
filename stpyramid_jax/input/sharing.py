"""What views have in common: snippets, of which each is computed once, and images, decoded once."""

import contextlib
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from stpyramid_jax.input.reading import Source

_TRIED = 8  # steps between one snippet a view and T
_ENOUGH = 50_000  # views that tell which is the best


class Place(NamedTuple):
    """One view in its part of a batch.

    Attributes:
      clip, crop, position: which view, each counted from 0.
      snippets: places of its snippets among those of the part.
      first: place of its first snippet that no view before it has; they follow each other.
      new: their first fields.
    """

    clip: int
    crop: int
    position: int
    snippets: tuple[int, ...]
    first: int
    new: tuple[int, ...]


class Packing:
    """Views of clips divided into parts of at most P views that have at most S different snippets.

    Views are in the order of clips, then crops, then positions, so that those that share snippets
    are neighbours. Unless it is given, S is that of a few numbers from P to P T with which all
    parts, filled up, hold the fewest images.

    Args:
      starts: of each clip and position the first fields of its T snippets (`Sample.starts`).
      views: P.
      snippets: S, if it must not hang on the clips.

    Attributes:
      snippets: S.
    """

    def __init__(
        self,
        starts: Sequence[Sequence[tuple[int, ...]]],
        crops: int,
        views: int,
        snippets: int | None = None,
    ):
        self._starts, self._crops, self._positions = starts, crops, len(starts[0])
        most = len(starts[0][0])  # of a view: T
        if snippets is None:
            room = (math.ceil(views * (1 + (most - 1) * k / _TRIED)) for k in range(_TRIED + 1))
            tried = sorted({max(number, most) for number in room}) if most else [0]
            some = range(0, len(starts), 1 + len(starts) * crops * self._positions // _ENOUGH)
            images = {n: (len(self._divide(some, views, n)) - 1) * (n + views) for n in tried}
            snippets = min(tried, key=images.__getitem__)
        self.snippets = max(snippets, most)
        self._begins = self._divide(range(len(starts)), views, self.snippets)

    def __len__(self) -> int:
        """How many parts there are."""
        return len(self._begins) - 1

    def part(self, number: int) -> list[Place]:
        """The views of a part, in their order; none beyond the last part."""
        if number >= len(self):
            return []
        places: dict[tuple[int, int, int], int] = {}
        found = []
        for view in range(self._begins[number], self._begins[number + 1]):
            which, first = self._which(view), len(places)
            wanted = self._wanted(*which)
            new = tuple(start for *_, start in (s for s in wanted if s not in places))
            for snippet in wanted:
                places.setdefault(snippet, len(places))
            chosen = tuple(places[snippet] for snippet in wanted)
            found.append(Place(*which, chosen, first, new))
        return found

    def uses(self, parts: Iterable[int]) -> Int64[np.ndarray, " clips"]:
        """How many views of each clip some parts have."""
        of_one = self._crops * self._positions
        counts = np.zeros(len(self._starts), np.int64)
        for begin, end in (self._begins[part : part + 2] for part in parts):
            clips = slice(begin // of_one, -(-end // of_one))
            counts[clips] += of_one
            counts[clips.start] -= begin % of_one
            counts[clips.stop - 1] -= -end % of_one
        return counts

    def _divide(self, clips: range, views: int, snippets: int) -> list[int]:
        """Numbers of the first views of parts as full as they can be, and of all views."""
        begins, held, number = [0], set(), 0
        every = itertools.product(clips, range(self._crops), range(self._positions))
        for number, which in enumerate(every):
            wanted = self._wanted(*which)
            more = sum(snippet not in held for snippet in wanted)
            if number - begins[-1] == views or len(held) + more > snippets:
                begins.append(number)
                held.clear()
            held.update(wanted)
        return [*begins, number + 1]

    def _which(self, view: int) -> tuple[int, int, int]:
        """Clip, crop and position of a view by its number."""
        row, position = divmod(view, self._positions)
        return *divmod(row, self._crops), position

    def _wanted(self, clip: int, crop: int, position: int) -> list[tuple[int, int, int]]:
        """The snippets of a view."""
        return [(clip, crop, start) for start in self._starts[clip][position]]


class Once:
    """A source whose images are read and decoded once for all views, from whatever thread.

    The images of a clip are asked for within `clip(video)`, and held until that was as often as
    was said.

    Args:
      uses: how often each video will be used.
    """

    def __init__(self, source: Source, uses: Mapping[int, int]):
        self.directory, self.families = source.directory, source.families
        self.videos = source.videos
        self._source = source
        self._lock = threading.Lock()
        self._left = dict(uses)
        self._images: dict[int, dict[tuple[str, int], Future]] = {}

    @contextlib.contextmanager
    def clip(self, video: int) -> Iterator[None]:
        with self._lock:
            self._images.setdefault(video, {})
        try:
            yield
        finally:
            with self._lock:
                self._left[video] -= 1
                if not self._left[video]:
                    del self._images[video]

    def rgb(self, video: int, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        (image,) = self._get(video, "rgb", frame, 1, lambda n, _: [self._source.rgb(video, n)])
        return image

    def flow(
        self, video: int, start: int, length: int, family: str = "flow"
    ) -> list[UInt8[np.ndarray, "2 h w"]]:
        def read(first: int, count: int) -> Iterable[np.ndarray]:
            return self._source.flow(video, first, count, family)

        return self._get(video, family, start, length, read)

    def _get(
        self,
        video: int,
        family: str,
        start: int,
        length: int,
        read: Callable[[int, int], Iterable[np.ndarray]],
    ) -> list[np.ndarray]:
        with self._lock:
            images = self._images[video]
            numbers = range(start, start + length)
            own = [n for n in numbers if (family, n) not in images]  # nobody has begun them
            images.update(((family, n), Future()) for n in own)
            wanted = [images[family, n] for n in numbers]
        try:
            for _, pairs in itertools.groupby(enumerate(own), key=lambda pair: pair[1] - pair[0]):
                run = [number for _, number in pairs]
                for number, image in zip(run, read(run[0], len(run)), strict=True):
                    images[family, number].set_result(image)
        except BaseException as error:  # which all that wait for them must see
            for number in own:
                if not images[family, number].done():
                    images[family, number].set_exception(error)
        return [image.result() for image in wanted]
