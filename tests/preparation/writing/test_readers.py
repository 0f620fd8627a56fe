"""Shards through the readers of others: `tf.data`, and TensorFlow Datasets by its descriptions."""

import csv
import json
import warnings

import cv2
import numpy as np
import pytest

from stpyramid_jax.preparation.choices import Choices
from stpyramid_jax.preparation.run import prepare
from stpyramid_jax.preparation.verification.contents import read_offsets, read_videos
from stpyramid_jax.preparation.verification.description import read_dataset, shard_files
from stpyramid_jax.preparation.writing.tfds import tfds_files
from stpyramid_jax.records import decode_example, read_record

SIZE = (64, 48)
FAMILIES = ("rgb", "flow")


@pytest.fixture(scope="module")
def prepared(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepare(Choices("folder", clips, out, flow="dis", size=SIZE, workers=1))
    return out


@pytest.fixture(scope="module")
def tf():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def tfds(tf):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("tensorflow_datasets")


def ours(folder, family):
    """(video, frame) to (label, JPEG) of all records, by this package."""
    dataset = read_dataset(folder)
    videos = read_videos(folder, dataset)
    offsets = read_offsets(folder, dataset, videos)[family]
    names = {place: name for name, place in shard_files(dataset).items()}
    found = {}
    for video, ends in zip(videos, offsets, strict=True):
        with (folder / names[family, video.shard]).open("rb") as file:
            for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
                example = decode_example(read_record(file.fileno(), start, end, "record"))
                found[example["video"], example["frame"]] = example["label"], example["image"]
    return found


def pixels(image):
    array = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED)
    assert array is not None
    return array[..., ::-1] if array.ndim == 3 else array[..., None]


def test_descriptions_count_what_the_shards_hold(prepared):
    info = json.loads((prepared / "dataset_info.json").read_text())
    dataset = read_dataset(prepared)
    assert [split["name"] for split in info["splits"]] == dataset["families"] == [*FAMILIES]
    for split in info["splits"]:
        sizes = []
        for shard in range(dataset["shards"]):
            template = split["filepathTemplate"]
            place = f"{shard:05}-of-{dataset['shards']:05}"
            name = template.format(SPLIT=split["name"], FILEFORMAT="tfrecord", SHARD_X_OF_Y=place)
            assert name in dataset["files"]
            sizes.append((prepared / name).stat().st_size)
        assert split["numBytes"] == str(sum(sizes))
        rows = list(csv.DictReader((prepared / "videos.csv").read_text().splitlines()))
        column = "frames" if split["name"] == "rgb" else "fields"
        assert split["shardLengths"] == [row[column] for row in rows]  # a video a shard
    assert (prepared / "label.labels.txt").read_text() == "Jump\nRun\n"


@pytest.mark.parametrize("name", [" A", "A ", "A\nB", "A\rB", "A\u2028B", ""])
def test_class_names_that_lines_cannot_hold_are_not_written(name):
    families = {"rgb": [(1, 10)]}
    assert "label.labels.txt" in tfds_files("set", ["A", "B c", "é"], families)
    assert tfds_files("set", ["A", name], families).keys() == {"dataset_info.json", "features.json"}


@pytest.mark.parametrize("family", FAMILIES)
def test_tf_data_reads_equal_records(prepared, tf, family):
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "video": tf.io.FixedLenFeature([], tf.string),
        "frame": tf.io.FixedLenFeature([], tf.int64),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    expected = ours(prepared, family)
    files = sorted(map(str, prepared.glob(f"*-{family}.tfrecord-*")))
    for record in tf.data.TFRecordDataset(files):
        example = tf.io.parse_single_example(record, features)
        label, image = expected.pop((example["video"].numpy(), int(example["frame"])))
        assert (int(example["label"]), example["image"].numpy()) == (label, image)
        decoded = tf.io.decode_jpeg(example["image"], dct_method="INTEGER_ACCURATE")
        np.testing.assert_array_equal(decoded.numpy(), pixels(image))
    assert not expected


@pytest.mark.parametrize("family", FAMILIES)
def test_tfds_reads_equal_records(prepared, tf, tfds, family):
    builder = tfds.builder_from_directory(prepared)
    assert builder.info.features["label"].names == ["Jump", "Run"]
    assert set(builder.info.splits) == set(FAMILIES)
    expected = ours(prepared, family)
    assert builder.info.splits[family].num_examples == len(expected)
    skip = {"image": tfds.decode.SkipDecoding()}
    for example in builder.as_dataset(split=family, decoders=skip):
        label, image = expected.pop((example["video"].numpy(), int(example["frame"])))
        assert int(example["label"]) == label
        decoded = tf.io.decode_jpeg(example["image"], dct_method="INTEGER_ACCURATE")
        np.testing.assert_array_equal(decoded.numpy(), pixels(image))
    assert not expected


@pytest.mark.parametrize("family", FAMILIES)
def test_tfds_decodes_to_nearly_the_same(prepared, tf, tfds, family):
    """Its own decoding takes the fast cosine transform: bytes are some units off."""
    expected = ours(prepared, family)
    builder = tfds.builder_from_directory(prepared)
    for example in tfds.as_numpy(builder.as_dataset(split=family)):
        _, image = expected.pop((example["video"], int(example["frame"])))
        difference = np.abs(example["image"].astype(int) - pixels(image))
        assert difference.shape == pixels(image).shape
        assert difference.mean() < 3
    assert not expected


def test_tfds_describes_them_alike(prepared, tfds, tmp_path):
    """What TFDS writes of what it read is what was written for it."""
    builder = tfds.builder_from_directory(prepared)
    builder.info.features.save_config(tmp_path)
    for name in ("features.json", "label.labels.txt"):
        ours, theirs = ((folder / name).read_text() for folder in (prepared, tmp_path))
        assert ours == theirs or json.loads(ours) == json.loads(theirs)


@pytest.mark.parametrize("name", ["ucf101-2-classes", "1 set, (new) 50%", "a{b}", "é動"])
def test_tfds_takes_any_name_and_empty_shards(tfds, tmp_path, name):
    files = tfds_files(name, ["A"], {"rgb": [(2, 20), (0, 0)]})
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    (split,) = tfds.builder_from_directory(tmp_path).info.splits.values()
    assert [path.name for path in split.filepaths] == [
        f"{name}-rgb.tfrecord-0000{shard}-of-00002" for shard in (0, 1)
    ]
    assert split.num_examples == 2
    (instruction,) = split.file_instructions  # none for the empty one
    assert instruction.filename.endswith(f"{name}-rgb.tfrecord-00000-of-00002")
