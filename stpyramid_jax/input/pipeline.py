"""Batches for training and testing: grain over any source of clips.

Everything here is bytes; mean, scale and differences belong to the model's first step on the
device. Images of a sample are uint8, by the names of `InputConfig.inputs`:

    rgb     [H, W, 3]             the frame at t
    flow    [T, H, W, 2L]         fields of each snippet, x1, y1, x2, y2, ... (flow or warped)
    frames  [T, L + 1, H, W, 3]   frames of each snippet, for their differences
"""

import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Generator, Mapping, Sequence

import grain
import numpy as np
from jaxtyping import Int

from stpyramid_jax.input import augment, sampling
from stpyramid_jax.input.config import InputConfig
from stpyramid_jax.input.memory import Memory
from stpyramid_jax.input.reading import Source, check, read_views
from stpyramid_jax.input.views import ViewReader

Row = dict[str, np.ndarray]
"""What a batch has of one sample, by name."""

Reader = Callable[[int, Row], Row]
"""Writes the images of a sample, by its number, into a row and gives the rest of the row."""

_ORDER, _SAMPLE = range(2)  # random numbers of either kind are independent
_ENDLESS = 2**62  # samples; ranges of Python end at 2^63


def train_iterator(
    source: Source,
    videos: Int[np.ndarray, " videos"],
    config: InputConfig,
    batch_size: int,
    seed: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Endless batches from sample number `start` on, each epoch in its own order.

    Gives the images [B, ...], `label` and `video` int32 [B], B = batch_size / process_count.
    Sample n hangs on (seed, n) alone: neither threads, processes, batch size nor `start` change
    it. Process p has the p-th part of each batch, so that the parts in a row are the batch of a
    single process. What lies before `start` is not read. `close` ends the threads.

    Args:
      start: samples taken so far, over all processes.

    Raises:
      ValueError: no videos, one without motion, a source without the motion that is asked for, or
        a batch that does not divide among the processes. While iterating: a damaged shard.
    """
    read = train_reader(source, videos, config, seed)
    share = _Share(batch_size, start, process_index, process_count)
    shapes = {name: (share.rows, *shape) for name, shape in config.shapes.items()}

    def write(number: int, row: int, images: Row) -> Row:
        return read(number, {name: array[row] for name, array in images.items()})

    return iter(_batches(write, shapes, share, _ENDLESS, config.threads))


def train_reader(
    source: Source, videos: Int[np.ndarray, " videos"], config: InputConfig, seed: int
) -> Reader:
    """Reads sample number n of a training: `train_iterator` without batches."""
    check(source, videos, config)

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> Int[np.ndarray, " videos"]:
        return np.random.default_rng((seed, _ORDER, epoch)).permutation(videos)

    def read(number: int, row: Row) -> Row:
        epoch, place = divmod(number, len(videos))
        video, rng = int(order(epoch)[place]), np.random.default_rng((seed, _SAMPLE, number))
        chosen = sampling.train_sample(
            rng, _num_fields(source, video), config.snippets, config.snippet_length, config.tau
        )
        images = {name: image[None] for name, image in row.items()}  # of one view

        def views(size: tuple[int, int]) -> list[augment.View]:
            return [augment.train_view(rng, size, config.scales, config.flip)]

        read_views(source, video, chosen, config, views, images)
        return _identity(source, video)

    return read


def eval_batches(
    source: Source,
    videos: Int[np.ndarray, " videos"],
    config: InputConfig,
    positions: int,
    crops: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    parts: int = 1,
    snippets: int | None = None,
) -> Generator[dict[str, np.ndarray], None, None]:
    """Every view of every video once over all processes, in batches of equal shape.

    A view is one crop of one position. Of the `batch_size` views of a batch, process p has the p-th
    part, in R parts of P views, one for each of its devices. The views of such a part share its S
    snippets; a clip's images are decoded once for all its views. Gives

        rgb              [R, P, ...]
        flow or frames   [R, S, ...]   each snippet once
        snippets         [R, P, T]     int32, which of the S a view has
        label, video     [R, P]        int32
        mask             [R, P]        bool, False where a view only fills up its part

    `apart` undoes the sharing.

    Args:
      parts: R.
      snippets: S, for one shape whatever the videos are; else what they share decides (`Packing`).

    Raises:
      ValueError: as `train_iterator`, and for impossible crops, or a batch that does not divide
        among the parts.
    """
    check(source, videos, config)
    share = _Share(batch_size, 0, process_index, process_count)
    if parts < 1 or share.rows % parts:
        raise ValueError(f"batch_size={batch_size}: must divide among {parts} devices")

    def mine(part: int) -> bool:
        return part // parts % process_count == process_index

    size = share.rows // parts
    reader = ViewReader(source, videos, config, positions, crops, size, snippets, mine)
    batches = iter(
        _batches(reader.read, reader.shapes(parts), share, reader.places, config.threads)
    )

    def divided():
        with contextlib.closing(batches):  # else threads read on if nobody wants the rest
            for batch in batches:
                yield {name: x.reshape(parts, -1, *x.shape[1:]) for name, x in batch.items()}

    return divided()


def apart(batch: Mapping[str, np.ndarray]) -> Row:
    """A batch of `eval_batches` with its N = R P views apart, as a model takes samples.

    Images are [N, ...], each view with snippets of its own; `label`, `video` and `mask` are [N].
    """
    views = {}
    for name in batch.keys() - {"snippets"}:
        array = batch[name]
        if name in ("flow", "frames"):
            rows = zip(array, batch["snippets"], strict=True)
            array = np.stack([row[chosen] for row, chosen in rows])
        views[name] = array.reshape(-1, *array.shape[2:])
    return views


def _num_fields(source: Source, video: int) -> int:
    return source.videos[video].fields


def _identity(source: Source, video: int) -> Row:
    label = source.videos[video].label
    return {"label": np.array(label, np.int32), "video": np.array(video, np.int32)}


@dataclasses.dataclass(frozen=True)
class _Share:
    """What a process has of each batch, counted from sample number `start` on."""

    batch_size: int
    start: int
    process_index: int
    process_count: int

    def __post_init__(self):
        if self.batch_size < 1 or self.batch_size % max(1, self.process_count):
            raise ValueError(
                f"batch_size={self.batch_size}: must be a positive multiple of the "
                f"{self.process_count} processes"
            )
        if not 0 <= self.process_index < self.process_count or self.start < 0:
            raise ValueError(
                f"process {self.process_index} of {self.process_count}, from sample {self.start}: "
                "count processes and samples from 0"
            )

    @property
    def rows(self) -> int:
        return self.batch_size // self.process_count

    def number(self, batch: int, row: int) -> int:
        """Of a sample, over all processes."""
        return self.start + batch * self.batch_size + self.process_index * self.rows + row


def _batches(
    read: Callable[[int, int, Row], Row],
    shapes: Mapping[str, tuple[int, ...]],
    share: _Share,
    total: int,
    threads: int,
) -> grain.IterDataset:
    """Threads read up to a batch of samples ahead while the device works on the last one.

    Images are written where they stay: to collect them afterwards would take the time of the
    thread that trains.

    Args:
      read: of a sample's number and row, writes its images among those of its batch and gives the
        rest of the row.
      shapes: of the images of a batch.
    """
    memory = {name: Memory(shape) for name, shape in shapes.items()}
    lock = threading.Lock()
    reading: dict[int, Row] = {}  # images of the batches that are being read

    def sample(place: int) -> tuple[int, Row]:
        batch, row = divmod(place, share.rows)
        with lock:
            if batch not in reading:
                reading[batch] = {name: arrays.take() for name, arrays in memory.items()}
            images = reading[batch]
        return batch, read(share.number(batch, row), row, images)

    def together(samples: Sequence[tuple[int, Row]]) -> Row:
        batches, rows = zip(*samples, strict=True)
        if len({*batches}) > 1:  # grain drops the sample that it was waiting for
            raise RuntimeError(
                "rows of two batches: an earlier call of next() failed or was interrupted; take a "
                "new iterator that starts at the samples taken so far"
            )
        return reading.pop(batches[0]) | {
            name: np.stack([row[name] for row in rows]) for name in rows[0]
        }

    threads = threads or _cores()
    places = -(-total // share.batch_size) * share.rows
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, share.rows))
    samples = grain.MapDataset.range(places).map(sample).to_iter_dataset(options)
    return samples.batch(share.rows, batch_fn=together)


def _cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
