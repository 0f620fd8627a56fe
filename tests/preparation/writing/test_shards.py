import itertools
import json
import os
from concurrent.futures import CancelledError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpyramid_jax import records
from stpyramid_jax.preparation.annotations import ListedVideo
from stpyramid_jax.preparation.writing import shards

FAMILIES = ("rgb", "flow")


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
        shard.files["rgb"].append(image=f"{name}{number}".encode() * 9, frame=number)
        shard.files["flow"].append(image=b"flow", frame=number)


def test_a_video_left_out_leaves_no_trace(tmp_path):
    for folder, names in (("a", "xz"), ("b", "xyz")):
        (tmp_path / folder).mkdir()
        with shards.ShardWriter(tmp_path / folder, "set", 0, 1, FAMILIES) as shard:
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


def fail(shard, folder):
    append(shard, "x", 2)
    raise KeyError


def be_called_off(shard, folder):
    shard.check()
    shards.remove_parts(folder)
    with pytest.raises(CancelledError):
        shard.check()
    raise CancelledError


def be_called_off_at_the_very_end(shard, folder):
    append(shard, "x", 2)
    shard.keep(video("x"))
    shards.remove_parts(folder)


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (fail, KeyError),
        (be_called_off, CancelledError),
        (be_called_off_at_the_very_end, FileNotFoundError),
    ],
)
def test_a_writer_that_does_not_end_well_leaves_nothing(tmp_path, write, error):
    def whole():
        with shards.ShardWriter(tmp_path, "set", 0, 1, FAMILIES) as shard:
            write(shard, tmp_path)

    with pytest.raises(error):
        whole()
    assert list(tmp_path.iterdir()) == []


def test_tally_counts_whole_lines_of_a_shard_in_flight(tmp_path):
    with shards.ShardWriter(tmp_path, "set", 0, 1, FAMILIES) as shard:
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
    with shards.ShardWriter(folder, "set", 0, 1, FAMILIES) as writer:
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
