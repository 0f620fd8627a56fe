import csv
import io
import itertools
import json
import os
from concurrent.futures import CancelledError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpyramid_jax import records
from stpyramid_jax.preparation import shards
from stpyramid_jax.preparation.annotations import ListedVideo


@given(st.integers(1, 20000))
def test_shares_cover_the_list_in_order_and_are_even(count):
    shares = shards.shard_shares(count)
    assert [n for share in shares for n in range(count)[share]] == list(range(count))
    sizes = [share.stop - share.start for share in shares]
    assert 1 <= min(sizes) <= max(sizes) <= min(sizes) + 1 <= shards.VIDEOS_PER_SHARD + 1
    assert max(sizes) <= shards.VIDEOS_PER_SHARD
    assert len(shares) >= min(count, 16)


def video(name):
    return ListedVideo(name, f"A/{name}.avi", "A", 0, name, ("train",))


def append(shard, name, frames):
    for number in range(frames):
        shard.rgb.append(image=f"{name}{number}".encode() * 9, frame=number)
        shard.flow.append(image=b"flow", frame=number)


def test_a_video_left_out_leaves_no_trace(tmp_path):
    for folder, names in (("a", "xz"), ("b", "xyz")):
        (tmp_path / folder).mkdir()
        with shards.ShardWriter(tmp_path / folder, "set", 0, 1) as shard:
            for name in names:
                append(shard, name, 3)
                shard.leave_out(video(name), "bad") if name == "y" else shard.keep(video(name))
    files = [sorted((tmp_path / folder).glob("set-*")) for folder in "ab"]
    assert [f.name for f in files[0]] == [
        "set-flow.tfrecord-00000-of-00001",
        "set-rgb.tfrecord-00000-of-00001",
    ]
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]
    lines = {f: (tmp_path / f / shards.manifest_file(0)).read_text().splitlines() for f in "ab"}
    assert json.loads(lines["b"].pop(1)) == {"name": "y", "path": "A/y.avi", "reason": "bad"}
    assert lines["a"] == lines["b"]


def test_a_failed_writer_leaves_nothing(tmp_path):
    def write():
        with shards.ShardWriter(tmp_path, "set", 0, 1) as shard:
            append(shard, "x", 2)
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_removing_parts_calls_the_writer_off(tmp_path):
    def write():
        with shards.ShardWriter(tmp_path, "set", 0, 1) as shard:
            shard.check()
            shards.remove_parts(tmp_path)
            with pytest.raises(CancelledError):
                shard.check()
            raise CancelledError

    with pytest.raises(CancelledError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_writer_called_off_at_its_very_end_leaves_nothing(tmp_path):
    def write():
        with shards.ShardWriter(tmp_path, "set", 0, 1) as shard:
            append(shard, "x", 2)
            shard.keep(video("x"))
            shards.remove_parts(tmp_path)

    with pytest.raises(FileNotFoundError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_tally_counts_whole_lines_of_a_shard_in_flight(tmp_path):
    with shards.ShardWriter(tmp_path, "set", 0, 1) as shard:
        append(shard, "x", 5)
        shard.keep(video("x"))
        shard.leave_out(video("y"), "bad")
        append(shard, "z", 2)
        (part,) = shards.parts_in_flight(tmp_path)
        assert shards.tally(part) == (2, 5, 1)
        with part.open("a") as file:
            file.write('{"name": "z", "fra')
        assert shards.tally(part) == (2, 5, 1)


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """Bytes and offsets of a small shard of one family."""
    folder = tmp_path_factory.mktemp("shard")
    with shards.ShardWriter(folder, "set", 0, 1) as writer:
        append(writer, "x", 4)
        writer.keep(video("x"))
    offsets = json.loads((folder / shards.manifest_file(0)).read_text().splitlines()[0])
    path = folder / records.shard_file("set", "rgb", 0, 1)
    return path, path.read_bytes(), offsets["rgb_offsets"]


def read(data, offsets, tmp):
    tmp.write_bytes(data)
    file = os.open(tmp, os.O_RDONLY)
    try:
        return [
            records.decode_example(records.read_record(file, start, end, f"{tmp.name}, {start}"))
            for start, end in itertools.pairwise(offsets)
        ]
    finally:
        os.close(file)


def test_offsets_find_each_record(shard, tmp_path):
    _, data, offsets = shard
    assert len(data) == offsets[-1]
    assert read(data, offsets, tmp_path / "a") == [
        {"image": f"x{number}".encode() * 9, "frame": number} for number in range(4)
    ]


def test_every_flipped_bit_is_noticed(shard, tmp_path):
    _, data, offsets = shard
    rng = np.random.default_rng(0)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << rng.integers(8)
        with pytest.raises(ValueError, match="checksum mismatch at offset"):
            read(bytes(flipped), offsets, tmp_path / "a")


def test_every_truncation_is_noticed(shard, tmp_path):
    _, data, offsets = shard
    for size in range(len(data)):
        with pytest.raises(ValueError, match="truncated at offset"):
            read(data[:size], offsets, tmp_path / "a")


def test_tensorflow_reads_the_records(shard):
    tf = pytest.importorskip("tensorflow")
    path, _, _ = shard
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "frame": tf.io.FixedLenFeature([], tf.int64),
    }
    for number, record in enumerate(tf.data.TFRecordDataset(str(path))):
        example = tf.io.parse_single_example(record, features)
        assert int(example["frame"]) == number
        assert example["image"].numpy() == f"x{number}".encode() * 9


PLAN = {
    "format": 1,
    "name": "set",
    "classes": ["A"],
    "splits": ["split1"],
    "parameters": {"size": [64, 48], "flow": {"method": "dis"}},
}


def test_another_plan_is_refused_with_all_the_keys_that_differ(tmp_path):
    assert shards.begin(tmp_path, PLAN) is False
    assert shards.begin(tmp_path, PLAN) is False
    other = {
        **PLAN,
        "classes": ["A", "B"],
        "parameters": {"size": [64, 48], "flow": {"method": "tvl1"}},
    }
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its lines are compared below
        shards.begin(tmp_path, other)
    assert [line.removeprefix(f"{tmp_path}: ") for line in str(caught.value).splitlines()] == [
        "prepared with classes = ['A'], now ['A', 'B']; choose another --out",
        "prepared with parameters.flow.method = 'dis', now 'tvl1'; choose another --out",
    ]


def test_other_libraries_are_refused_until_the_folder_is_complete(tmp_path):
    def plan(version, size=64):
        flow = {"method": "tvl1", "platform": version, "jax": version}
        parameters = {"size": size, "libraries": {"av": version}, "flow": flow}
        return PLAN | {"parameters": parameters}

    assert shards.begin(tmp_path, plan("1")) is False
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its lines are compared below
        shards.begin(tmp_path, plan("2"))
    keys = [line.split(" = ")[0].split()[-1] for line in str(caught.value).splitlines()]
    assert keys == [f"parameters.{k}" for k in ("flow.jax", "flow.platform", "libraries.av")]
    with shards.ShardWriter(tmp_path, "set", 0, 1) as shard:
        append(shard, "a", 2)
        shard.keep(video("a"))
    shards.finalise(tmp_path, plan("1"), [video("a")])
    assert shards.begin(tmp_path, plan("2")) is True
    with pytest.raises(ValueError, match=r"prepared with parameters\.size = 64, now 65"):
        shards.begin(tmp_path, plan("2", size=65))


@pytest.mark.parametrize("name", ["dataset.json", ".plan.json"])
@pytest.mark.parametrize("text", ["", '{"format": 1, "na', "[]"])
def test_a_damaged_description_is_named(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="not what a preparation writes") as caught:
        shards.begin(tmp_path, PLAN)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert str(caught.value).endswith("; remove the folder or choose another --out")


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    (tmp_path / ".download.part").touch()
    with pytest.raises(
        ValueError, match=r"not empty and not a preparation: holds \.download\.part"
    ):
        shards.begin(tmp_path, PLAN)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.tex", ".download.part"}


def test_a_second_preparation_is_kept_out(tmp_path):
    with (
        shards.locked(tmp_path),
        pytest.raises(ValueError, match="another preparation is writing here"),
        shards.locked(tmp_path),
    ):
        pass
    with shards.locked(tmp_path):  # free again, and no trace of it afterwards
        pass
    assert list(tmp_path.iterdir()) == []


def test_finalise_joins_shards_and_marks_the_folder_complete(tmp_path):
    videos = [video(name) for name in "abc"]
    shards.begin(tmp_path, PLAN)
    for number, share in enumerate(shards.shard_shares(3)):
        with shards.ShardWriter(tmp_path, "set", number, 3) as shard:
            for one in videos[share]:
                append(shard, one.name, 2 + number)
                shard.leave_out(one, "bad") if one.name == "b" else shard.keep(one)
    dataset = shards.finalise(tmp_path, PLAN, videos)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "videos.csv").read_text())))
    assert [(r["name"], r["frames"], r["fields"], r["shard"]) for r in rows] == [
        ("a", "2", "1", "0"),
        ("c", "4", "3", "2"),
    ]
    assert (tmp_path / "errors.csv").read_text() == "name,path,reason\nb,A/b.avi,bad\n"
    with np.load(tmp_path / "index.npz") as index:
        assert index["rgb_offsets"].dtype == np.int64
        assert len(index["rgb_offsets"]) == 3 + 5
    assert dataset == json.loads((tmp_path / "dataset.json").read_text())
    assert dataset["files"].keys() | {"dataset.json"} == {p.name for p in tmp_path.iterdir()}
    assert shards.begin(tmp_path, PLAN) is True

    (tmp_path / "index.npz").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"index\.npz is damaged, 5 of \d+ bytes"):
        shards.begin(tmp_path, PLAN)
