"""Batches for training and testing: grain over any source of clips.

Everything here is bytes; mean and scale belong to the model's first step on the device.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import grain
import numpy as np
from jaxtyping import Int, UInt8

from stpyramid_jax.input import augment, sampling
from stpyramid_jax.input.config import STREAMS, InputConfig
from stpyramid_jax.input.tfrecord import Video


class Source(Protocol):
    """Where clips come from: `tfrecord.Shards`, or one video that is being predicted."""

    @property
    def videos(self) -> Sequence[Video]: ...

    def rgb(self, video: int, frame: int) -> UInt8[np.ndarray, "h w 3"]: ...

    def flow(self, video: int, start: int, length: int) -> UInt8[np.ndarray, "length 2 h w"]: ...


def train_iterator(
    source: Source,
    videos: Int[np.ndarray, " videos"],
    config: InputConfig,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Endless batches, each epoch in its own order, the same for the same seed.

    Gives `rgb` uint8 [B, H, W, 3], `flow` uint8 [B, T, H, W, 2L], `label` and `video` int32 [B],
    B = batch_size / process_count. Neither threads nor processes change the samples: process p
    has every process_count-th one, starting with the p-th. `get_state` and `set_state` resume at
    the very next sample; the state is `{"next_index": batches taken * B}`.

    Raises:
      ValueError: no videos, one without motion, or a batch that does not divide among the
        processes. While iterating: a damaged shard.
    """
    _check_videos(source, videos)
    local = _local_batch(batch_size, process_count)

    def sample(number: np.integer, rng: np.random.Generator):
        video = int(number)
        chosen = sampling.train_sample(
            rng, _num_fields(source, video), config.snippets, config.snippet_length, config.tau
        )
        row = _read(
            source,
            video,
            chosen,
            config,
            lambda size: [augment.train_view(rng, size, config.scales, config.flip)],
        )
        return {name: row[name][0] for name in STREAMS[config.streams]} | _identity(source, video)

    samples = (
        grain.MapDataset.source(videos.tolist())
        .seed(seed)
        .shuffle()
        .repeat()
        # Before the processes part, so that each sample has its own random numbers in all of them.
        .random_map(sample)[process_index::process_count]
    )
    return iter(_batches(samples, local, config.threads))


def eval_batches(
    source: Source,
    videos: Int[np.ndarray, " videos"],
    config: InputConfig,
    positions: int,
    crops: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Every position of every video once over all processes, in batches of equal shape.

    A row is one (video, position): `rgb` uint8 [B, crops, H, W, 3], `flow` uint8
    [B, crops, T, H, W, 2L], `label` and `video` int32 [B], and `mask` bool [B], False where a row
    only fills up the last batch. B = batch_size / process_count, and every process gets equally
    many batches; process p has every process_count-th row, starting with the p-th.

    Raises:
      ValueError: as `train_iterator`, and for impossible crops.
    """
    _check_videos(source, videos)
    local = _local_batch(batch_size, process_count)
    rows = len(videos) * positions
    padded = -(-rows // batch_size) * batch_size

    def read(row: int):
        video, position = divmod(min(row, rows - 1), positions)
        video = int(videos[video])
        chosen = sampling.test_samples(
            _num_fields(source, video),
            positions,
            config.snippets,
            config.snippet_length,
            config.test_tau,
        )[position]
        views = _read(
            source,
            video,
            chosen,
            config,
            lambda size: augment.test_views(size, config.test_scale, crops),
        )
        return views | _identity(source, video) | {"mask": np.bool_(row < rows)}

    samples = grain.MapDataset.range(padded).map(read)[process_index::process_count]
    return iter(_batches(samples, local, config.threads))


def _check_videos(source: Source, videos: Int[np.ndarray, " videos"]) -> None:
    if len(videos) == 0:
        raise ValueError("no videos to read")
    for video in videos:
        if source.videos[video].fields < 1:
            raise ValueError(
                f"video {source.videos[video].name!r} has one frame and so no motion; leave it out"
            )


def _num_fields(source: Source, video: int) -> int:
    return source.videos[video].fields


def _identity(source: Source, video: int) -> dict[str, np.integer]:
    return {"label": np.int32(source.videos[video].label), "video": np.int32(video)}


def _read(source: Source, video: int, sample: sampling.Sample, config: InputConfig, make_views):
    """Decodes what a sample needs, each image once, and gives its views: a leading axis."""
    row: dict[str, np.ndarray] = {}
    views = None
    if "rgb" in STREAMS[config.streams]:
        image = source.rgb(video, sample.t)
        views = make_views(image.shape[:2])
        row["rgb"] = np.stack([augment.view_image(image, view, config.crop) for view in views])
    if "flow" in STREAMS[config.streams]:
        indices = sampling.field_indices(sample, _num_fields(source, video), config.snippet_length)
        wanted, places = np.unique(indices, return_inverse=True)
        fields = _read_fields(source, video, wanted)
        views = views or make_views(fields.shape[-2:])
        row["flow"] = np.stack(
            [
                augment.stack_snippets(
                    augment.view_flow(fields, view, config.crop), places.reshape(indices.shape)
                )
                for view in views
            ]
        )
    return row


def _read_fields(source: Source, video: int, wanted: np.ndarray) -> UInt8[np.ndarray, "n 2 h w"]:
    """The fields of the sorted numbers `wanted`, each run of neighbours in one go."""
    runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1)
    return np.concatenate([source.flow(video, int(run[0]), len(run)) for run in runs])


def _local_batch(batch_size: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size={batch_size}: must be a positive multiple of the {process_count} processes"
        )
    return batch_size // process_count


def _batches(samples: grain.MapDataset, batch_size: int, threads: int) -> grain.IterDataset:
    """Threads decode up to a batch of samples ahead while the device works on the last one."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, batch_size))
    return samples.to_iter_dataset(options).batch(batch_size)
