import hashlib
import os

import pytest

from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.preparation.annotations import read_folder
from stpyramid_jax.preparation.choices import Choices
from stpyramid_jax.preparation.run import prepare


def test_folder_with_train_and_test_keeps_its_split(tmp_path, disk):
    disk.touch(
        tmp_path, "train/B/x.mp4", "train/A/y.avi", "test/A/x.mp4", "test/B/z.MKV", "labels.csv"
    )
    read = read_folder(tmp_path)
    assert [(v.name, v.label, v.splits) for v in read.videos] == [
        ("test/A/x", 0, ("test",)),
        ("train/A/y", 0, ("train",)),
        ("test/B/z", 1, ("test",)),
        ("train/B/x", 1, ("train",)),
    ]


def test_flat_folder_is_split_over_groups(tmp_path, disk):
    disk.touch(
        tmp_path,
        *(f"A/v_g{group:02d}_c{part}.avi" for group in range(12) for part in range(5)),
        *(f"B/{number}.avi" for number in range(20)),
        "C/only.avi",
    )
    videos = read_folder(tmp_path).videos
    tests = [v for v in videos if v.splits == ("test",)]
    groups = {v.group for v in tests}
    assert len({g for g in groups if g.startswith("A_g")}) == 3
    assert sum(v.class_name == "A" for v in tests) == 15  # groups whole
    assert sum(v.class_name == "B" for v in tests) == 5
    assert not any(v.class_name == "C" for v in tests)  # one group cannot be on both sides
    disk.touch(tmp_path, "B/20.avi", "D/0.avi")
    again = read_folder(tmp_path).videos
    assert {v.name for v in again if v.class_name == "A" and v.splits == ("test",)} == {
        v.name for v in tests if v.class_name == "A"
    }


def test_folder_refuses_what_it_cannot_label(tmp_path, disk):
    disk.touch(tmp_path, "train/A/x.mp4", "train/A/x.avi", "test/a/x.mp4", "train/B/notes.txt")
    disk.touch(tmp_path, "train/C/v_g01_c01.avi", "test/C/v_g01_c02.avi")
    assert disk.faults(read_folder, tmp_path) == [
        f"{tmp_path}/train/B: holds no videos",
        f"{tmp_path}/test/a: unknown class 'a', the nearest is 'A' of train",
        "train/A/x.avi: duplicate name 'train/A/x'",
        "train/A/x.mp4: duplicate name 'train/A/x'",
        "split1: group C_g01 is on both sides: train/C/v_g01_c01.avi in train, "
        "test/C/v_g01_c02.avi in test",
    ]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no class folders" in disk.faults(read_folder, empty)[0]


def test_folder_refuses_videos_that_are_not_in_a_class(tmp_path, disk):
    disk.touch(
        tmp_path, "A/x.mp4", "A/.x.mp4", "A/day1/y.mp4", "A/day1/b/z.mp4", "A/day1/notes.txt"
    )
    disk.touch(tmp_path, "loose.avi", ".hidden.avi")
    assert disk.faults(read_folder, tmp_path) == [
        f"{tmp_path}/loose.avi: not in a class folder",
        f"{tmp_path}/A/day1/b/z.mp4: in a subfolder; put it into {tmp_path}/A",
        f"{tmp_path}/A/day1/y.mp4: in a subfolder; put it into {tmp_path}/A",
    ]


@pytest.mark.parametrize(("part", "other"), [("train", "test"), ("test", "train")])
def test_folder_refuses_half_a_split(tmp_path, part, other, disk):
    disk.touch(tmp_path, f"{part}/A/x.mp4", "B/y.mp4")
    (line,) = disk.faults(read_folder, tmp_path)
    assert line.startswith(f"{tmp_path}: holds {part} but no {other}; add {tmp_path}/{other}/")


def in_test(videos):
    return {video.path for video in videos if video.splits == ("test",)}


@pytest.mark.parametrize("ratio", [None, 0.01, 0.25, 1 / 3, 0.5, 0.99])
def test_the_test_part_is_the_share_of_groups_with_the_smallest_digests(tmp_path, disk, ratio):
    groups = {name: [f"{name}/{k}" for k in range(n)] for n, name in enumerate("ABCDEFGHIJK", 1)}
    disk.touch(tmp_path, *(f"{group}.avi" for names in groups.values() for group in names))
    expected = set()
    for names in groups.values():
        ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        count = round(len(names) * (ratio or 0.25))
        if len(names) > 1:
            count = min(max(count, 1), len(names) - 1)  # something on each side
        expected |= {f"{name}.avi" for name in ordered[: count if len(names) > 1 else 0]}
    assert in_test(read_folder(tmp_path, test_ratio=ratio).videos) == expected


@pytest.mark.parametrize("ratio", [0, 1, -0.25, 25, float("nan")])
def test_a_share_that_is_none_is_refused(tmp_path, disk, ratio):
    disk.touch(tmp_path, "A/x.avi")
    assert disk.faults(read_folder, tmp_path, test_ratio=ratio) == [
        f"--test_ratio={ratio:g}: not between 0 and 1"
    ]


def test_a_table_says_which_part_each_video_is_in(tmp_path, disk):
    disk.touch(tmp_path, "A/x_g01_c1.avi", "A/x_g01_c2.avi", "B/y, z.mp4")
    table = tmp_path / "parts.csv"
    table.write_text('path,split\n"B/y, z.mp4",test\nA/x_g01_c1.avi,train\nA/x_g01_c2.avi,train\n')
    read = read_folder(tmp_path, split=table)
    assert (read.classes, read.splits) == (("A", "B"), ("split1",))
    assert [(v.path, v.label, v.group, v.splits) for v in read.videos] == [
        ("A/x_g01_c1.avi", 0, "A_g01", ("train",)),
        ("A/x_g01_c2.avi", 0, "A_g01", ("train",)),
        ("B/y, z.mp4", 1, "B/y, z", ("test",)),
    ]
    assert [v.path for v in read_folder(tmp_path, ["B"], split=table).videos] == ["B/y, z.mp4"]
    table.write_text(
        'path,split1,split2,group\n"B/y, z.mp4",,test,1\n'
        "A/x_g01_c1.avi,train,train,2\nA/x_g01_c2.avi,test,train,3\n"
    )
    read = read_folder(tmp_path, split=table)
    assert read.splits == ("split1", "split2")
    assert [(v.group, v.splits) for v in read.videos] == [
        ("2", ("train", "train")),
        ("3", ("test", "train")),
        ("1", ("", "test")),
    ]


def test_videos_and_rows_without_the_other_are_named(tmp_path, disk):
    disk.touch(tmp_path, "A/x_g01_c1.avi", "A/x_g01_c2.avi", "A/new.avi", "B/y.mp4")
    table = tmp_path / "parts.csv"
    table.write_text(
        "path,split\nA/x_g01_c1.avi,train\nA/x_g01_c2.avi,test\nA/gone.avi,train\nC/z.avi,test\n"
        "B/gone.avi,train\nparts.csv,test\n"
    )
    assert disk.faults(read_folder, tmp_path, ["A"], split=table) == [
        f"A/new.avi: not in {table}; add a row for it",
        f"{table}, line 4: A/gone.avi is no video of the class folders",
        f"{table}, line 5: C/z.avi is no video of the class folders",
        f"{table}, line 7: parts.csv is no video of the class folders",
        "split1: group A_g01 is on both sides: A/x_g01_c1.avi in train, A/x_g01_c2.avi in test",
    ]


def test_two_splits_are_refused(tmp_path, disk):
    disk.touch(tmp_path, "flat/A/x.avi", "parted/train/A/x.avi", "parted/test/A/y.avi")
    flat, parted = tmp_path / "flat", tmp_path / "parted"
    assert disk.faults(read_folder, flat, test_ratio=0.5, split=tmp_path) == [
        f"{flat}: --annotations={tmp_path} and --test_ratio=0.5 each give a split; keep one"
    ]
    assert disk.faults(read_folder, parted, test_ratio=0.5) == [
        f"{parted}: the folders train and test and --test_ratio=0.5 each give a split; keep one"
    ]


def test_file_names_that_cannot_be_stored_are_refused_by_name(tmp_path, disk):
    bad = ("A\u2028/x.avi", "B/new\nline.avi", "B/tab\t.avi", os.fsdecode(b"B/latin-\xe9.avi"))
    disk.touch(tmp_path, *bad, "B/café.avi", "B/cafe\u0301.avi")
    assert disk.faults(read_folder, tmp_path) == [
        r"class 'A\u2028' holds '\u2028'; rename it",
        r"A\u2028/x.avi: name or group holds '\u2028'; rename it",
        r"B/latin-\udce9.avi: name or group holds '\udce9'; rename it",
        r"B/new\nline.avi: name or group holds '\n'; rename it",
        r"B/tab\t.avi: name or group holds '\t'; rename it",
        "B/cafe\u0301.avi: duplicate name 'B/cafe\\u0301'",
        "B/café.avi: duplicate name 'B/caf\\xe9'",
    ]


def test_hard_names_come_back_from_the_shards(tmp_path, make):
    """Names of the trap characters that can be stored, from the disk through the shards."""
    names = ["-Rock & Roll;/'a' \"b\", [c] 100%d", "クラス/-été $(x) `y` #*?", "c:d/e:f=g,\\h"]
    for seed, name in enumerate(names):
        make.write_clip(tmp_path / "my clips" / f"{name}.avi", make.clip(seed, 12, 32, 32))
    prepare(
        Choices(
            "folder", tmp_path / "my clips", tmp_path / "out", size=(32, 32), flow="dis", workers=1
        )
    )
    shards = Shards(tmp_path / "out")
    assert sorted(video.name for video in shards.videos) == sorted(names)
    assert shards.classes == tuple(sorted(name.partition("/")[0] for name in names))
    for number in range(len(names)):
        assert shards.rgb(number, 11).shape == (32, 32, 3)  # the record carries the same name
