"""Batches for training and testing: grain over any source of clips.

Everything here is bytes; mean, scale and differences belong to the model's first step on the
device. Images are uint8, by the names of `InputConfig.inputs`:

    rgb     [H, W, 3]             the frame at t
    flow    [T, H, W, 2L]         fields of each snippet, x1, y1, x2, y2, ... (flow or warped)
    frames  [T, L + 1, H, W, 3]   frames of each snippet, for their differences
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import grain
import numpy as np
from jaxtyping import Int, UInt8

from stpyramid_jax.input import augment, sampling
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
    ) -> UInt8[np.ndarray, "length 2 h w"]: ...


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

    Gives the images [B, ...], `label` and `video` int32 [B], B = batch_size / process_count.
    Neither threads nor processes change the samples: process p has every process_count-th one,
    starting with the p-th. `get_state` and `set_state` resume at the very next sample; the state
    is `{"next_index": batches taken * B}`.

    Raises:
      ValueError: no videos, one without motion, a source without the motion that is asked for, or
        a batch that does not divide among the processes. While iterating: a damaged shard.
    """
    _check(source, videos, config)
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
        return {name: images[0] for name, images in row.items()} | _identity(source, video)

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

    A row is one (video, position): the images [B, crops, ...], `label` and `video` int32 [B], and
    `mask` bool [B], False where a row only fills up the last batch. B = batch_size /
    process_count, and every process gets equally many batches; process p has every
    process_count-th row, starting with the p-th.

    Raises:
      ValueError: as `train_iterator`, and for impossible crops.
    """
    _check(source, videos, config)
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


def _check(source: Source, videos: Int[np.ndarray, " videos"], config: InputConfig) -> None:
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


def _num_fields(source: Source, video: int) -> int:
    return source.videos[video].fields


def _identity(source: Source, video: int) -> dict[str, np.integer]:
    return {"label": np.int32(source.videos[video].label), "video": np.int32(video)}


def _read(source: Source, video: int, sample: sampling.Sample, config: InputConfig, make_views):
    """Decodes what a sample needs, each image once, and gives its views: a leading axis."""
    numbers = sampling.numbers(
        sample, _num_fields(source, video), config.snippet_length, config.inputs
    )
    snippets = numbers.pop("flow", None)
    row: dict[str, np.ndarray] = {}
    views = None
    if numbers:  # of frames
        wanted = np.unique(np.concatenate([chosen.ravel() for chosen in numbers.values()]))
        frames = [source.rgb(video, int(number)) for number in wanted]
        views = make_views(frames[0].shape[:2])
        seen = np.stack([augment.view_frames(frames, view, config.crop) for view in views])
        for name, chosen in numbers.items():
            row[name] = seen[:, np.searchsorted(wanted, chosen)]
    if snippets is not None:  # of fields
        wanted, places = np.unique(snippets, return_inverse=True)
        fields = _read_fields(source, video, wanted, config.motion)
        views = views or make_views(fields.shape[-2:])
        row["flow"] = np.stack(
            [
                augment.stack_snippets(
                    augment.view_flow(fields, view, config.crop), places.reshape(snippets.shape)
                )
                for view in views
            ]
        )
    return row


def _read_fields(
    source: Source, video: int, wanted: np.ndarray, family: str
) -> UInt8[np.ndarray, "n 2 h w"]:
    """The fields of the sorted numbers `wanted`, each run of neighbours in one go."""
    runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1)
    return np.concatenate([source.flow(video, int(run[0]), len(run), family) for run in runs])


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
