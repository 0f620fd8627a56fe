import csv
import unicodedata
from pathlib import Path

import pytest

from stpyramid_jax.preparation.annotations import read_ucf101

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
def ucf(tmp_path, make, disk):
    """(lists, videos), with every listed video on disk; `write` replaces the lists."""
    lists, videos = tmp_path / "lists", tmp_path / "videos"
    make.write_lists(lists, {1: (TRAIN, TEST), 2: (TEST, TRAIN)})
    disk.touch(videos, *TRAIN, *TEST)
    return lists, videos


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


def test_all_offenders_are_named_at_once(ucf, make, disk):
    lists, videos = ucf
    leak = "PullUps/v_PullUps_g08_c03.avi"
    train = (*TRAIN, TRAIN[0], "PullUp/v_PullUps_g09_c01.avi", "PullUps/v_PullUps_g10_c01.avi")
    make.write_lists(lists, {1: (train, (*TEST, leak)), 2: (TEST, TRAIN)})
    disk.touch(videos, leak)
    (videos / TRAIN[1]).unlink()
    lines = disk.faults(read_ucf101, lists, videos)
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


def test_one_name_in_two_files_is_refused(ucf, make, disk):
    lists, videos = ucf
    twin = "PullUps/v_PullUps_g08_c01.mp4"
    make.write_lists(lists, {1: ((*TRAIN, twin), TEST)})
    disk.touch(videos, twin)
    assert disk.faults(read_ucf101, lists, videos) == [
        f"{path}: duplicate name 'v_PullUps_g08_c01'" for path in (TRAIN[3], twin)
    ]


def test_a_label_that_contradicts_the_index_is_refused(ucf, disk):
    lists, videos = ucf
    path = lists / "trainlist02.txt"
    path.write_text(path.read_text().replace(f"{TEST[1]} 3", f"{TEST[1]} 2"))
    assert disk.faults(read_ucf101, lists, videos) == [
        f"trainlist02.txt: {TEST[1]}: label 2, but classInd.txt gives PullUps 3"
    ]


def test_misspelt_chosen_classes_are_named_with_the_nearest(ucf, disk):
    assert disk.faults(read_ucf101, *ucf, classes=["pullups", "PullUps", "HandStandPushups"]) == [
        "--classes: unknown class 'pullups', the nearest is 'PullUps'",
        "--classes: unknown class 'HandStandPushups', the nearest is 'HandstandPushups'",
    ]


def test_absent_lists_are_named(ucf, disk):
    lists, videos = ucf
    for name in ("classInd.txt", "testlist03.txt"):
        (lists / name).unlink()
    lines = disk.faults(read_ucf101, lists, videos)
    assert [line.partition(":")[0] for line in lines] == [
        str(lists / "classInd.txt"),
        str(lists / "testlist03.txt"),
    ]


def test_lines_that_cannot_be_read_are_named_by_number(ucf, disk):
    lists, videos = ucf
    path = lists / "trainlist02.txt"
    text = path.read_text()
    path.write_text(f"\nv_PullUps_g01_c01.avi 3\n{text}PullUps/v_PullUps_g02_c01.avi\n")
    assert disk.faults(read_ucf101, lists, videos) == [
        f"{path}, line 2: 'v_PullUps_g01_c01.avi 3' is not CLASS/VIDEO NUMBER",
        f"{path}, line 5: 'PullUps/v_PullUps_g02_c01.avi' is not CLASS/VIDEO NUMBER",
    ]
    path = lists / "classInd.txt"
    path.write_text("1 ApplyEyeMakeup\nPullUps\n")
    assert disk.faults(read_ucf101, lists, videos) == [
        f"{path}, line 2: 'PullUps' is not NUMBER CLASS"
    ]
    path.write_text("")
    assert disk.faults(read_ucf101, lists, videos) == [
        f"{path}: empty; expected a line NUMBER CLASS for each class"
    ]
    path.write_bytes(b"1 \xff")
    assert f"{path}: not a text file" in disk.faults(read_ucf101, lists, videos)[0]


@pytest.mark.parametrize("missing", ["fail", "skip"])
def test_lists_without_videos_are_refused(ucf, make, missing, disk):
    lists, videos = ucf
    make.write_lists(lists, {1: (TRAIN[:1], ())})
    assert disk.faults(read_ucf101, lists, videos, ["PullUps"], missing) == [
        f"{lists}: the lists hold no video of PullUps"
    ]


def test_missing_videos_are_left_out_and_counted_on_request(ucf, disk):
    lists, videos = ucf
    (videos / TRAIN[1]).unlink()
    read = read_ucf101(lists, videos, missing="skip")
    assert read.missing == 1
    assert [v.path for v in read.videos] == sorted({*TRAIN, *TEST} - {TRAIN[1]})
    for path in {*TRAIN, *TEST} - {TRAIN[1]}:
        (videos / path).unlink()
    assert disk.faults(read_ucf101, lists, videos, missing="skip") == [
        f"{videos}: holds none of the 6 listed videos"
    ]


def test_the_official_lists_have_their_published_sizes(real):
    read = read_ucf101(real / "splits" / "ucfTrainTestlist", real, there=lambda path: True)
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


def test_names_may_hold_what_shells_and_lists_stumble_over(tmp_path, make, disk):
    lists, videos = tmp_path / "lists", tmp_path / "videos"
    classes = ("-Rock & Roll", "100%; [x]", "'Quoted' \"twice\"")
    train = [f"{name}/two  words, 1 2_g01_c01.avi" for name in classes[:1]]
    train += [f"{name}/-été#{number}*?.avi" for number, name in enumerate(classes)]
    make.write_lists(lists, {1: (train, ())}, classes)
    disk.touch(videos, *train)
    read = read_ucf101(lists, videos)
    assert read.classes == classes
    assert {v.path for v in read.videos} == set(train)
    assert read.videos[1].name == "two  words, 1 2_g01_c01"
    assert read.videos[1].group == "-Rock & Roll_g01"


def test_lists_may_begin_with_a_byte_order_mark_and_end_without_a_newline(ucf):
    lists, videos = ucf
    before = read_ucf101(lists, videos)
    for path in lists.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().rstrip())
    assert read_ucf101(lists, videos) == before


def test_a_video_is_found_however_its_letters_are_composed_on_disk(tmp_path, make, disk):
    lists, videos = tmp_path / "lists", tmp_path / "videos"
    for listed, found in (("NFC", "NFD"), ("NFD", "NFC")):
        path, place = (unicodedata.normalize(form, "Café/à.avi") for form in (listed, found))
        make.write_lists(lists, {1: ([path], ())}, [path.partition("/")[0]])
        disk.touch(videos / listed, place)
        (video,) = read_ucf101(lists, videos / listed).videos
        assert (video.name, video.path) == (Path(path).stem, place)


def test_paths_out_of_the_folder_of_videos_are_refused(ucf, disk):
    lists, videos = ucf
    with (lists / "classInd.txt").open("a") as file:
        file.write("4 ..\n")
    path = lists / "testlist02.txt"
    path.write_text(f"{path.read_text()}../v.avi\n/v.avi\nPullUps/../v.avi\n")
    assert disk.faults(read_ucf101, lists, videos) == [
        f"{path}, line 6: '/v.avi' is not CLASS/VIDEO",
        f"{path}, line 7: 'PullUps/../v.avi' is not CLASS/VIDEO",
    ]
    path.write_text("../v.avi\n")
    assert disk.faults(read_ucf101, lists, videos) == [
        "../v.avi: not a path inside the folder of videos"
    ]


def test_a_class_listed_twice_is_refused(ucf, disk):
    lists, videos = ucf
    with (lists / "classInd.txt").open("a") as file:
        file.write("4 PullUps\n")
    assert disk.faults(read_ucf101, lists, videos)[0] == (
        f"{lists / 'classInd.txt'}: 4 lines, but only 3 different classes"
    )


def test_whether_a_video_is_there_can_be_told_by_others(ucf, disk):
    lists, _ = ucf
    elsewhere = lists / "nowhere"
    assert len(read_ucf101(lists, elsewhere, there={*TRAIN, *TEST}.__contains__).videos) == 6
    read = read_ucf101(lists, elsewhere, missing="skip", there=TRAIN.__contains__)
    assert ({v.path for v in read.videos}, read.missing) == (set(TRAIN), 2)
