"""The input beside decoding alone, PyTorch's loader and `tf.data`: samples a second.

    python benchmarks/input.py
    python benchmarks/input.py --shards=shards/ucf101 --json=input.json

All read the same clips with all cores: RGB, flow and both (pyramid), views of 224 x 224, in turn,
medians of the repetitions, caches warm. Decoding alone has the bytes of the same images in memory
and throws away what it decodes. PyTorch reads loose files (`benchmarks/torch_input.py`), which are
written to a temporary folder first. `tf.data`, where TensorFlow is installed, reads the shards as
they come, thirty fields in a row a sample. Without --shards a few clips are rendered. Then come the
bytes that are read for a sample beside those of its images, and the memory after 10,000 samples.
--quick takes three repetitions at most and leaves the memory out.
"""

import argparse
import contextlib
import importlib.util
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import comparison
import cv2
import numpy as np
from comparison import Row

from stpyramid_jax.input import augment, sampling
from stpyramid_jax.input.config import InputConfig
from stpyramid_jax.input.pipeline import train_iterator, train_reader
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.preparation.choices import Choices
from stpyramid_jax.preparation.run import prepare

PACKAGES = ("grain", "opencv-contrib-python-headless", "torch", "numpy")
STREAMS = {"RGB": "spatial", "flow": "temporal", "pyramid": "both"}
SIZE, BATCH, CLIPS = (340, 256), 8, 6
CORES = comparison.hardware()["cores"]
AHEAD = 2 * CORES  # batches that are read ahead at most, and so come at once


def rendered(folder: Path) -> Shards:
    """Shards of textures that move under noise: frames have UCF101's bytes, fields half."""
    random = np.random.default_rng(0)
    for clip in range(4):
        path = folder / "videos" / f"class{clip % 2}" / f"clip_g{clip:02d}_c01.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, SIZE)
        scene = cv2.GaussianBlur(random.normal(128, 900, (400, 500, 3)), (0, 0), 5)
        for frame in range(45):
            centre = (250 + 40 * np.sin(frame / 7), 200 + 30 * np.cos(frame / 5 + clip))
            image = cv2.getRectSubPix(scene.astype(np.float32), SIZE, centre)
            noisy = image + random.normal(0, 4, image.shape)
            writer.write(np.clip(noisy, 0, 255).astype(np.uint8))
        writer.release()
    out = folder / "shards"
    with contextlib.redirect_stdout(sys.stderr):
        prepare(Choices("folder", folder / "videos", out, size=SIZE, flow="dis", workers=1))
    return Shards(out)


def samples(shards: Shards, videos: np.ndarray, config: InputConfig, folder: Path) -> list[Any]:
    """Windows, drawn as ours are, of the loose files of all clips."""
    from torch_input import Sample

    random, found = np.random.default_rng(0), []
    for video in np.resize(videos, 1024).tolist():
        about = shards.videos[video]
        chosen = sampling.train_sample(random, about.fields, 3, 10, config.tau)
        numbers = sampling.numbers(chosen, about.fields, 10, config.inputs)
        frame = int(numbers["rgb"]) if "rgb" in numbers else None
        fields = tuple(numbers["flow"].ravel().tolist()) if "flow" in numbers else ()
        found.append(Sample(folder / str(video), frame, fields))
    return found


def write_files(shards: Shards, videos: np.ndarray, folder: Path) -> None:
    """Every frame and both planes of every field as a file, in the shards' quality."""
    for video in videos.tolist():
        about, place = shards.videos[video], folder / str(video)
        place.mkdir(parents=True)
        images = {f"img_{k + 1:05d}": shards.rgb(video, k)[..., ::-1] for k in range(about.frames)}
        for k, (x, y) in enumerate(shards.flow(video, 0, about.fields), 1):
            images |= {f"flow_x_{k:05d}": x, f"flow_y_{k:05d}": y}
        for name, image in images.items():
            cv2.imwrite(str(place / f"{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 95])


def read_alone(read: Callable, config: InputConfig, count: int) -> tuple[list[list[Any]], int]:
    """What each of the first samples decodes, and the bytes that one thread reads for them."""
    row = {name: np.empty(shape, np.uint8) for name, shape in config.shapes.items()}
    decode, found = cv2.imdecode, []

    def keep(data, mode):
        found[-1].append((data, mode))
        return decode(data, mode)

    before = bytes_read()
    with mock.patch.object(cv2, "imdecode", keep):
        for number in range(count):
            found.append([])
            read(number, row)
    return found, bytes_read() - before


def bytes_read() -> int:
    """By this process so far, from files in the kernel's cache too (Linux)."""
    path = Path("/proc/self/io")
    return int(path.read_text().split()[1]) if path.exists() else 0


def resident() -> float:
    """Memory of this process in MB (Linux)."""
    path = Path("/proc/self/statm")
    pages = int(path.read_text().split()[1]) if path.exists() else 0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def rate(batches: Iterator[Any], count: int) -> float:
    """Samples a second of an endless input that has nothing ready but what it is working on."""
    for _ in range(AHEAD):
        next(batches)
    began = time.perf_counter()
    for _ in range(count):
        next(batches)
    seconds = time.perf_counter() - began
    time.sleep(AHEAD * seconds / count)  # in which it reads ahead again
    return count * BATCH / seconds


def bare(images: list[list[Any]], pool: ThreadPoolExecutor) -> float:
    """Samples a second of decoding alone."""

    def decode(sample):
        for data, mode in sample:
            cv2.imdecode(data, mode)

    began = time.perf_counter()
    list(pool.map(decode, images))
    return len(images) / (time.perf_counter() - began)


def tensorflow_batches(shards: Shards, config: InputConfig) -> Iterator[Any]:
    """Thirty fields in a row and their middle frame a sample, decoded and cut by TensorFlow."""
    import tensorflow as tf  # pyrefly: ignore[missing-import]

    feature = {"image": tf.io.FixedLenFeature([], tf.string)}
    crop, count = config.crop, config.snippets * config.snippet_length

    def images(family):
        files = sorted(map(str, shards.directory.glob(f"*-{family}.tfrecord-*")))
        records = tf.data.TFRecordDataset(files).repeat().batch(count, drop_remainder=True)
        return records.map(lambda r: tf.io.parse_example(r, feature)["image"])

    def cut(pictures, side):
        place = tf.random.uniform([2], 0, 256 - side + 1, tf.int32)
        box = pictures[:, place[0] : place[0] + side, place[1] : place[1] + side]
        return tf.cast(tf.image.resize(box, (crop, crop)), tf.uint8)

    def sample(*parts):
        side, found = tf.random.uniform([], 168, 257, tf.int32), {}
        for name, jpegs in zip(config.inputs, parts, strict=True):
            if name == "rgb":
                found[name] = cut(tf.io.decode_jpeg(jpegs[count // 2], 3)[None], side)[0]
                continue
            fields = tf.map_fn(
                lambda jpeg: tf.io.decode_jpeg(jpeg, 1), jpegs, fn_output_signature=tf.uint8
            )
            planes = tf.concat([fields[:, :256], fields[:, 256:]], 3)
            stack = tf.reshape(cut(planes, side), (config.snippets, -1, crop, crop, 2))
            found[name] = tf.reshape(
                tf.transpose(stack, (0, 2, 3, 1, 4)), (config.snippets, crop, crop, -1)
            )
        return found

    parts = tuple(images(family) for family in config.families)
    samples = tf.data.Dataset.zip(*parts).map(sample, num_parallel_calls=CORES)
    return iter(samples.batch(BATCH).prefetch(2))


def compared(shards: Shards, folder: Path, chosen: argparse.Namespace) -> Iterator[Row]:
    """For each kind of sample a row for each peer, and one of bytes."""
    import torch_input

    videos = np.arange(len(shards.videos))[:: max(1, len(shards.videos) // CLIPS)]
    videos = np.array([video for video in videos if shards.videos[video].fields])
    write_files(shards, videos, folder)
    for name, streams in STREAMS.items():
        config = InputConfig(streams=streams, tau=(10, 10))  # thirty fields in every sample
        images, read = read_alone(train_reader(shards, videos, config, 0), config, 4 * BATCH)
        count = (40 if name == "RGB" else 4) * max(1, CORES // 2)

        def view(number, scales=config.scales):
            return augment.train_view(np.random.default_rng(number), SIZE[::-1], scales, True)

        loose = samples(shards, videos, config, folder)
        inputs = {
            peer: torch_input.batches(
                torch_input.LooseFiles(loose, config.crop, lean, view), BATCH, CORES
            )
            for peer, lean in (
                ("PyTorch DataLoader, TSN", False),
                ("PyTorch DataLoader, lean", True),
            )
        }
        if importlib.util.find_spec("tensorflow"):
            inputs["tf.data"] = tensorflow_batches(shards, config)
        ours = train_iterator(shards, videos, config, BATCH, 0)
        with ThreadPoolExecutor(CORES) as pool:
            bare(images, pool)
            rates = [
                [rate(ours, count), bare(images, pool), *(rate(i, count) for i in inputs.values())]
                for _ in range(min(chosen.repetitions, 3) if chosen.quick else chosen.repetitions)
            ]
        ours.close()
        inputs = dict.fromkeys(["decoding alone", *inputs])  # ends the workers
        mine, *others = (statistics.median(of_one) for of_one in zip(*rates, strict=True))
        for peer, other in zip(inputs, others, strict=True):
            yield Row(name, peer, mine, other, "samples/s")
        used = sum(len(data) for sample in images for data, _ in sample)
        each = 1e3 * len(images)
        yield Row(f"{name}, read a sample", "bytes of its images", read / each, used / each, "KB")
    if not chosen.quick:
        yield growth(shards, videos)


def growth(shards: Shards, videos: np.ndarray) -> Row:
    """Memory after 10,000 samples of both streams beside that after 1,000."""
    batches, found = train_iterator(shards, videos, InputConfig(), BATCH, 0), []
    for total in (1_000, 9_000):
        for _ in range(total // BATCH):
            next(batches)
        found.append(resident())
    batches.close()
    early, late = found
    return Row("pyramid, memory after 10,000 samples", "after 1,000", late, early, "MB")


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--shards", type=Path)
    mine, sys.argv[1:] = parser.parse_known_args()
    chosen = comparison.options(__doc__)
    comparison.require("torch")
    if not importlib.util.find_spec("tensorflow"):
        print("TensorFlow is not installed: tf.data is left out", file=sys.stderr)
    # Workers are forked; they use neither JAX nor grain.
    warnings.filterwarnings("ignore", message=r"os\.fork", category=RuntimeWarning)
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
    with tempfile.TemporaryDirectory() as folder:
        shards = Shards(mine.shards) if mine.shards else rendered(Path(folder))
        found = compared(shards, Path(folder, "loose"), chosen)
        rows = list(comparison.tabulated(found, PACKAGES))
    if chosen.json:
        comparison.write(chosen.json, rows, PACKAGES)


if __name__ == "__main__":
    main()
