"""Reading gives back what was written, or an error that says where; never a wrong image."""

import hashlib
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpyramid_jax.input.tfrecord import Shards

LOSS = 5  # of a byte, by JPEG of quality 95 on these smooth images; neighbours differ by more


def reseal(directory):
    """Makes dataset.json agree with the small files again."""
    info = json.loads((directory / "dataset.json").read_text())
    for name in ("index.npz", "videos.csv"):
        info["files"][name]["sha256"] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    (directory / "dataset.json").write_text(json.dumps(info))


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written.directory, tmp_path / "copy")


@pytest.fixture(scope="module")
def damaged(written, tmp_path_factory):
    """A copy whose shards a test may damage, if it mends them again."""
    return shutil.copytree(written.directory, tmp_path_factory.mktemp("damaged") / "copy")


def read(shards, record):
    file, video, number, *_ = record
    return shards.rgb(video, number) if "-rgb." in file else next(shards.flow(video, number, 1))


def test_reads_every_image_that_was_written(written, shards):
    for file, video, number, *_ in written.records:
        if "-rgb." in file:
            error = shards.rgb(video, number) - written.rgb(video, number).astype(int)
            assert shards.rgb(video, number).dtype == np.uint8
        else:
            error = next(shards.flow(video, number, 1)) - written.flow(video, number).astype(int)
        assert np.abs(error).max() <= LOSS, (file, video, number)


def test_a_run_of_fields_is_its_fields(shards):
    run = list(shards.flow(3, 4, 6))
    assert [field.shape for field in run] == [(2, 48, 64)] * 6
    for field, k in zip(run, range(4, 10), strict=True):
        np.testing.assert_array_equal(field, next(shards.flow(3, k, 1)))


def test_fields_without_the_motion_of_the_camera_are_a_family_of_their_own(write_shards, tmp_path):
    written = write_shards(tmp_path, [5, 4], families=("rgb", "flow", "warped"))
    shards = Shards(tmp_path)
    assert shards.families == ("rgb", "flow", "warped")
    for family in ("flow", "warped"):
        for field, number in zip(shards.flow(1, 1, 2, family), (1, 2), strict=True):
            assert np.abs(field.astype(int) - getattr(written, family)(1, number)).max() <= LOSS
    np.testing.assert_array_equal([*shards.flow(1, 0, 3)], [*shards.flow(1, 0, 3, "flow")])


def test_the_table_of_videos(shards):
    assert shards.classes == ("a", "b")
    assert len(shards.digest) == 64
    assert [video.frames for video in shards.videos] == [16, 12, 4, 20, 2, 9, 14]
    assert all(video.fields == video.frames - 1 for video in shards.videos)
    assert [video.label for video in shards.videos] == [0, 1, 0, 1, 0, 1, 0]
    assert shards.videos[5].name == "clip5"
    assert shards.videos[5].group == "g5"


def test_splits_select_videos(shards):
    assert shards.select("split1", "train").tolist() == [1, 2, 4, 5]
    assert shards.select("split1", "test").tolist() == [0, 3, 6]
    assert shards.select("split2", "train").tolist() == [0]
    with pytest.raises(ValueError, match="split 'split2' has no test videos"):
        shards.select("split2", "test")
    with pytest.raises(ValueError, match="no part 'train' of split 'split4'; splits are split1, "):
        shards.select("split4", "train")
    with pytest.raises(ValueError, match=r"no part 'val' of split 'split1'.*parts are train, test"):
        shards.select("split1", "val")


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, 16), (15, 1), (3, 0)])
def test_fields_outside_the_video_are_refused(shards, start, length):
    with pytest.raises(ValueError, match=r"clip0: flow .* asked, it has 0\.\.14"):
        list(shards.flow(0, start, length))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_an_error_that_says_where(written, damaged, data):
    record = data.draw(st.sampled_from(written.records))
    file, video, number, start, end = record
    place = data.draw(st.integers(start, end - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    path = damaged / file
    good = path.read_bytes()
    shards = Shards(damaged)
    try:
        path.write_bytes(good[:place] + bytes([good[place] ^ bit]) + good[place + 1 :])
        with pytest.raises(ValueError, match=re.escape(f"{path}: clip{video} ")) as error:
            read(shards, record)
    finally:
        path.write_bytes(good)
    assert re.search(rf" {number}: .* offset {start}\b", str(error.value))


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_truncated_shard_gives_what_is_left_and_no_more(written, damaged, data):
    file = data.draw(st.sampled_from(sorted({record[0] for record in written.records})))
    path = damaged / file
    good = path.read_bytes()
    cut = data.draw(st.integers(0, len(good) - 1))
    shards = Shards(damaged)
    try:
        os.truncate(path, cut)
        for record in written.records:
            _, video, number, start, end = record
            if record[0] == file and end <= cut:
                read(shards, record)
            elif record[0] == file:
                where = re.escape(f"{path}: clip{video} ") + rf".* {number}: .* offset {start}\b"
                with pytest.raises(ValueError, match=where):
                    read(shards, record)
    finally:
        path.write_bytes(good)


def test_an_index_of_another_preparation_gives_no_wrong_sample(write_shards, tmp_path):
    write_shards(tmp_path, [5, 5], shards=1)
    with np.load(tmp_path / "index.npz") as index:
        halves = {name: np.split(offsets, 2)[::-1] for name, offsets in index.items()}
    np.savez(tmp_path / "index.npz", **{name: np.concatenate(h) for name, h in halves.items()})
    reseal(tmp_path)
    shards = Shards(tmp_path)
    with pytest.raises(ValueError, match=r"clip0 rgb 2: the record at offset .* is b'clip1' 2"):
        shards.rgb(0, 2)
    with pytest.raises(ValueError, match=r"clip1 flow 0: the record at offset .* is b'clip0' 0"):
        list(shards.flow(1, 0, 2))


def test_an_unfinished_preparation_is_refused(copy):
    (copy / "dataset.json").unlink()
    with pytest.raises(ValueError, match=r"no dataset\.json.*run data/prepare\.py"):
        Shards(copy)


def test_another_format_is_refused(copy):
    info = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps(info | {"format": 1}))
    with pytest.raises(ValueError, match="format is 1, this version reads 2"):
        Shards(copy)
    (copy / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        Shards(copy)


def test_missing_files_are_refused(copy):
    (copy / "tiny-flow.tfrecord-00001-of-00002").unlink()
    with pytest.raises(ValueError, match="1 of 7 files are missing, first tiny-flow"):
        Shards(copy)


def test_a_changed_table_is_refused(copy):
    table = copy / "videos.csv"
    table.write_text(table.read_text().replace("train", "test"))
    with pytest.raises(ValueError, match="changed since the preparation"):
        Shards(copy)


def test_threads_read_together(written, shards):
    records = written.records * 3
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda record: read(shards, record), records))
    for record, image in zip(records, together, strict=True):
        np.testing.assert_array_equal(image, read(shards, record))


def test_reading_leaves_no_file_open(written, shards):
    before = len(os.listdir("/dev/fd"))
    for record in written.records:
        read(shards, record)
    assert len(os.listdir("/dev/fd")) == before
