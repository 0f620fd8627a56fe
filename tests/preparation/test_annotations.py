import csv

import pytest

from stpyramid_jax.preparation.annotations import read_folder, read_ucf101

TRAIN = (
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
    "HandstandPushups/v_HandStandPushups_g08_c01.avi",
    "PullUps/v_PullUps_g08_c02.avi",
    "PullUps/v_PullUps_g08_c01.avi",
)
TEST = (
    "HandstandPushups/v_HandStandPushups_g01_c01.avi",
    "PullUps/v_PullUps_g01_c01.avi",
)


@pytest.fixture
def ucf(tmp_path, make):
    """(lists, videos), with every listed video on disk; `write` replaces the lists."""
    lists, videos = tmp_path / "lists", tmp_path / "videos"
    make.write_lists(lists, {1: (TRAIN, TEST), 2: (TEST, TRAIN)})
    touch(videos, *TRAIN, *TEST)
    return lists, videos


def touch(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def faults(call, *args, **kwargs):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the lines are compared by the caller
        call(*args, **kwargs)
    return str(caught.value).splitlines()


def test_lists_with_crlf_become_videos_in_order_of_class_and_path(ucf):
    read = read_ucf101(*ucf)
    assert read.classes == ("ApplyEyeMakeup", "HandstandPushups", "PullUps")
    assert [v.path for v in read.videos] == sorted(TRAIN + TEST)
    assert [v.label for v in read.videos] == [0, 1, 1, 2, 2, 2]
    video = read.videos[3]
    assert (video.name, video.group) == ("v_PullUps_g01_c01", "PullUps_g01")
    assert video.splits == ("test", "train", "test")


def test_the_class_is_the_folder_where_the_file_spells_it_otherwise(ucf):
    video = read_ucf101(*ucf, classes=["HandstandPushups"]).videos[0]
    assert video.class_name == "HandstandPushups"
    assert video.name == "v_HandStandPushups_g01_c01"
    assert video.group == "HandstandPushups_g01"


def test_chosen_classes_are_labelled_in_the_order_of_the_index(ucf):
    read = read_ucf101(*ucf, classes=["PullUps", "ApplyEyeMakeup"])
    assert read.classes == ("ApplyEyeMakeup", "PullUps")
    assert {(v.class_name, v.label) for v in read.videos} == {("ApplyEyeMakeup", 0), ("PullUps", 1)}


def test_all_offenders_are_named_at_once(ucf, make):
    lists, videos = ucf
    leak = "PullUps/v_PullUps_g08_c03.avi"
    train = (*TRAIN, TRAIN[0], "PullUp/v_PullUps_g09_c01.avi", "PullUps/v_PullUps_g10_c01.avi")
    make.write_lists(lists, {1: (train, (*TEST, leak)), 2: (TEST, TRAIN)})
    touch(videos, leak)
    (videos / TRAIN[1]).unlink()
    lines = faults(read_ucf101, lists, videos)
    for sign in (
        "trainlist01.txt: PullUp/v_PullUps_g09_c01.avi: unknown class 'PullUp', "
        "the nearest is 'PullUps'",
        f"trainlist01.txt: {TRAIN[0]}: listed twice in split1",
        f"{videos / TRAIN[1]}: listed, but not on disk",
        f"{videos}/PullUps/v_PullUps_g10_c01.avi: listed, but not on disk",
        f"split1: group PullUps_g08 is on both sides: PullUps/v_PullUps_g08_c01.avi in train, "
        f"{leak} in test",
    ):
        assert sign in lines


def test_one_name_in_two_files_is_refused(ucf, make):
    lists, videos = ucf
    twin = "PullUps/v_PullUps_g08_c01.mp4"
    make.write_lists(lists, {1: ((*TRAIN, twin), TEST)})
    touch(videos, twin)
    assert faults(read_ucf101, lists, videos) == [
        f"{path}: duplicate name 'v_PullUps_g08_c01'" for path in (TRAIN[3], twin)
    ]


def test_a_label_that_contradicts_the_index_is_refused(ucf):
    lists, videos = ucf
    path = lists / "trainlist02.txt"
    path.write_text(path.read_text().replace(f"{TEST[1]} 3", f"{TEST[1]} 2"))
    assert faults(read_ucf101, lists, videos) == [
        f"trainlist02.txt: {TEST[1]}: label 2, but classInd.txt gives PullUps 3"
    ]


def test_misspelt_chosen_classes_are_named_with_the_nearest(ucf):
    assert faults(read_ucf101, *ucf, classes=["pullups", "PullUps", "HandStandPushups"]) == [
        "--classes: unknown class 'pullups', the nearest is 'PullUps'",
        "--classes: unknown class 'HandStandPushups', the nearest is 'HandstandPushups'",
    ]


def test_absent_lists_are_named(ucf):
    lists, videos = ucf
    for name in ("classInd.txt", "testlist03.txt"):
        (lists / name).unlink()
    lines = faults(read_ucf101, lists, videos)
    assert [line.partition(":")[0] for line in lines] == [
        str(lists / "classInd.txt"),
        str(lists / "testlist03.txt"),
    ]


def test_lines_that_cannot_be_read_are_named_by_number(ucf):
    lists, videos = ucf
    path = lists / "trainlist02.txt"
    text = path.read_text()
    path.write_text(f"\nv_PullUps_g01_c01.avi 3\n{text}PullUps/v_PullUps_g02_c01.avi\n")
    assert faults(read_ucf101, lists, videos) == [
        f"{path}, line 2: 'v_PullUps_g01_c01.avi 3' is not CLASS/VIDEO NUMBER",
        f"{path}, line 5: 'PullUps/v_PullUps_g02_c01.avi' is not CLASS/VIDEO NUMBER",
    ]
    path = lists / "classInd.txt"
    path.write_text("1 ApplyEyeMakeup\nPullUps\n")
    assert faults(read_ucf101, lists, videos) == [f"{path}, line 2: 'PullUps' is not NUMBER CLASS"]
    path.write_text("")
    assert faults(read_ucf101, lists, videos) == [
        f"{path}: empty; expected a line NUMBER CLASS for each class"
    ]
    path.write_bytes(b"1 \xff")
    assert f"{path}: not a text file" in faults(read_ucf101, lists, videos)[0]


@pytest.mark.parametrize("missing", ["fail", "skip"])
def test_lists_without_videos_are_refused(ucf, make, missing):
    lists, videos = ucf
    make.write_lists(lists, {1: (TRAIN[:1], ())})
    assert faults(read_ucf101, lists, videos, ["PullUps"], missing) == [
        f"{lists}: the lists hold no video of PullUps"
    ]


def test_missing_videos_are_left_out_and_counted_on_request(ucf):
    lists, videos = ucf
    (videos / TRAIN[1]).unlink()
    read = read_ucf101(lists, videos, missing="skip")
    assert read.missing == 1
    assert [v.path for v in read.videos] == sorted({*TRAIN, *TEST} - {TRAIN[1]})
    for path in {*TRAIN, *TEST} - {TRAIN[1]}:
        (videos / path).unlink()
    assert faults(read_ucf101, lists, videos, missing="skip") == [
        f"{videos}: holds none of the 6 listed videos"
    ]


def test_folder_with_train_and_test_keeps_its_split(tmp_path):
    touch(tmp_path, "train/B/x.mp4", "train/A/y.avi", "test/A/x.mp4", "test/B/z.MKV", "labels.csv")
    read = read_folder(tmp_path)
    assert [(v.name, v.label, v.splits) for v in read.videos] == [
        ("test/A/x", 0, ("test",)),
        ("train/A/y", 0, ("train",)),
        ("test/B/z", 1, ("test",)),
        ("train/B/x", 1, ("train",)),
    ]


def test_flat_folder_is_split_over_groups(tmp_path):
    touch(
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
    touch(tmp_path, "B/20.avi", "D/0.avi")
    again = read_folder(tmp_path).videos
    assert {v.name for v in again if v.class_name == "A" and v.splits == ("test",)} == {
        v.name for v in tests if v.class_name == "A"
    }


def test_folder_refuses_what_it_cannot_label(tmp_path):
    touch(tmp_path, "train/A/x.mp4", "train/A/x.avi", "test/a/x.mp4", "train/B/notes.txt")
    touch(tmp_path, "train/C/v_g01_c01.avi", "test/C/v_g01_c02.avi")
    assert faults(read_folder, tmp_path) == [
        f"{tmp_path}/train/B: holds no videos",
        f"{tmp_path}/test/a: unknown class 'a', the nearest is 'A' of train",
        "train/A/x.avi: duplicate name 'train/A/x'",
        "train/A/x.mp4: duplicate name 'train/A/x'",
        "split1: group C_g01 is on both sides: train/C/v_g01_c01.avi in train, "
        "test/C/v_g01_c02.avi in test",
    ]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no class folders" in faults(read_folder, empty)[0]


def test_folder_refuses_videos_that_are_not_in_a_class(tmp_path):
    touch(tmp_path, "A/x.mp4", "A/.x.mp4", "A/day1/y.mp4", "A/day1/b/z.mp4", "A/day1/notes.txt")
    touch(tmp_path, "loose.avi", ".hidden.avi")
    assert faults(read_folder, tmp_path) == [
        f"{tmp_path}/loose.avi: not in a class folder",
        f"{tmp_path}/A/day1/b/z.mp4: in a subfolder; put it into {tmp_path}/A",
        f"{tmp_path}/A/day1/y.mp4: in a subfolder; put it into {tmp_path}/A",
    ]


@pytest.mark.parametrize(("part", "other"), [("train", "test"), ("test", "train")])
def test_folder_refuses_half_a_split(tmp_path, part, other):
    touch(tmp_path, f"{part}/A/x.mp4", "B/y.mp4")
    (line,) = faults(read_folder, tmp_path)
    assert line.startswith(f"{tmp_path}: holds {part} but no {other}; add {tmp_path}/{other}/")


def test_the_official_lists_have_their_published_sizes(real, tmp_path):
    lists = real / "splits" / "ucfTrainTestlist"
    for name in ("trainlist01", "testlist01"):
        for line in (lists / f"{name}.txt").read_text().splitlines():
            touch(tmp_path, line.split()[0])
    read = read_ucf101(lists, tmp_path)
    assert (len(read.classes), len(read.videos)) == (101, 13320)
    for column, sizes in enumerate(((9537, 3783), (9586, 3734), (9624, 3696))):
        parts = [v.splits[column] for v in read.videos]
        assert (parts.count("train"), parts.count("test")) == sizes


def test_splits_of_the_real_clips_are_the_official_ones(real):
    read = read_ucf101(
        real / "splits" / "ucfTrainTestlist", real / "ucf10" / "videos", missing="skip"
    )
    rows = csv.DictReader((real / "ucf10" / "clips.csv").read_text().splitlines())
    known = {r["path"]: (r["class"], r["split1"], r["split2"], r["split3"]) for r in rows}
    assert {v.path: (v.class_name, *v.splits) for v in read.videos} == known
