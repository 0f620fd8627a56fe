import pytest

from stpyramid_jax.preparation.annotations import read_hmdb51

# Names as hard as the real ones, and harder: (clip, its parts in splits 1, 2, 3).
CLIPS = {
    "climb": (
        ("(HQ)_Rock_[x]_&_'y';_climb_f_cm_np1_ba_med_0", "121"),
        ("(HQ)_Rock_[x]_&_'y';_climb_u_nm_np10_fr_goo_11", "120"),
        ("-100%_climb_stairs_climb_f_cm_np1_le_bad_2", "212"),
    ),
    "climb_stairs": (
        ("(HQ)_Rock_[x]_&_'y';_climb_stairs_f_cm_np1_le_bad_3", "212"),
        ("two words_climb_stairs_f_nm_np2_ri_med_4", "000"),
    ),
    "wave": (("ohne Namensregel", "112"), ("été_wave_u_nm_np1_fr_med_0", "221")),
}


def write(folder, clips=CLIPS):
    folder.mkdir(exist_ok=True)
    for name, rows in clips.items():
        for column in range(3):
            lines = [f"{clip}.avi {parts[column]} \n" for clip, parts in rows]
            (folder / f"{name}_test_split{column + 1}.txt").write_text("".join(lines))


@pytest.fixture
def hmdb(tmp_path, disk):
    """(lists, videos), with every listed clip on disk."""
    write(tmp_path / "lists")
    for name, rows in CLIPS.items():
        disk.touch(tmp_path / "videos" / name, *(f"{clip}.avi" for clip, _ in rows))
    return tmp_path / "lists", tmp_path / "videos"


def test_lists_become_clips_in_order_of_class_and_path(hmdb):
    read = read_hmdb51(*hmdb)
    assert (read.name, read.classes) == ("hmdb51-3-classes", ("climb", "climb_stairs", "wave"))
    assert read.splits == ("split1", "split2", "split3")
    words = {"0": "", "1": "train", "2": "test"}
    assert [(v.path, v.name, v.label, v.splits) for v in read.videos] == [
        (f"{name}/{clip}.avi", clip, label, tuple(words[part] for part in parts))
        for label, (name, rows) in enumerate(sorted(CLIPS.items()))
        for clip, parts in sorted(rows)
    ]
    assert all((hmdb[1] / video.path).is_file() for video in read.videos)


def test_the_group_is_the_recording_within_the_class(hmdb):
    assert {v.name: v.group for v in read_hmdb51(*hmdb).videos} == {
        CLIPS["climb"][0][0]: "climb/(HQ)_Rock_[x]_&_'y';",
        CLIPS["climb"][1][0]: "climb/(HQ)_Rock_[x]_&_'y';",
        CLIPS["climb"][2][0]: "climb/-100%_climb_stairs",
        CLIPS["climb_stairs"][0][0]: "climb_stairs/(HQ)_Rock_[x]_&_'y';",
        CLIPS["climb_stairs"][1][0]: "climb_stairs/two words",
        "ohne Namensregel": "wave/ohne Namensregel",
        "été_wave_u_nm_np1_fr_med_0": "wave/été",
    }


def test_parted_recordings_are_refused(hmdb):
    lists, videos = hmdb
    path = lists / "climb_test_split2.txt"
    path.write_text(path.read_text().replace("_11.avi 2", "_11.avi 1"))
    with pytest.raises(ValueError, match=r"^split2: group climb/\(HQ\).* is on both sides: .*$"):
        read_hmdb51(lists, videos)


def test_chosen_classes_are_labelled_in_alphabetical_order(hmdb, disk):
    read = read_hmdb51(*hmdb, classes=["wave", "climb"])
    assert read.classes == ("climb", "wave")
    assert {(v.class_name, v.label) for v in read.videos} == {("climb", 0), ("wave", 1)}
    assert disk.faults(read_hmdb51, *hmdb, classes=["climbing"]) == [
        "--classes: unknown class 'climbing', the nearest is 'climb'"
    ]


def test_missing_clips_are_named_or_left_out(hmdb, disk):
    lists, videos = hmdb
    gone = f"climb/{CLIPS['climb'][2][0]}.avi"
    (videos / gone).unlink()
    assert disk.faults(read_hmdb51, lists, videos) == [f"{videos / gone}: listed, but not on disk"]
    read = read_hmdb51(lists, videos, missing="skip")
    assert read.missing == 1
    assert gone not in {v.path for v in read.videos}
    assert len(read_hmdb51(lists, videos, there=lambda path: True).videos) == 7


def test_what_the_lists_lack_is_named(hmdb, disk):
    lists, videos = hmdb
    path = lists / "wave_test_split3.txt"
    second, first = path.read_text().splitlines()[::-1]
    path.write_text(f"{first}\n{first}\n")
    name = second.rpartition(" ")[0].rpartition(" ")[0]
    assert disk.faults(read_hmdb51, lists, videos) == [
        f"{path}: {first.rpartition('.')[0]}.avi: listed twice",
        f"{path}: has no line for {name}, which other lists of wave hold",
    ]
    path.write_text(f"{first}\nclip.avi 3 \nclip 1\n")
    assert disk.faults(read_hmdb51, lists, videos) == [
        f"{path}, line 2: 'clip.avi 3' is not VIDEO 0, 1 or 2",
        f"{path}, line 3: 'clip 1' is not VIDEO 0, 1 or 2",
    ]
    path.unlink()
    assert disk.faults(read_hmdb51, lists, videos) == [f"{path}: no such list"]
    (line,) = disk.faults(read_hmdb51, videos, videos)
    assert line.startswith(f"{videos}: holds no list <class>_test_split1.txt; --annotations")
    (lists / "wave_test_split1.txt").unlink()
    assert f"{lists / 'wave_test_split1.txt'}: no such list" in disk.faults(
        read_hmdb51, lists, videos
    )


def test_empty_lists_are_refused(hmdb, disk):
    lists, videos = hmdb
    write(lists, {"wave": ()})
    assert disk.faults(read_hmdb51, lists, videos, classes=["wave"]) == [
        f"{lists}: the lists hold no video of wave"
    ]


def test_the_official_lists_keep_the_published_protocol(real):
    """70 and 30 clips a class, no recording of a class on both sides, no clip twice."""
    lists = real / "splits" / "testTrainMulti_7030_splits"
    read = read_hmdb51(lists, real, there=lambda path: True)
    assert (read.name, len(read.classes), len(read.videos)) == ("hmdb51", 51, 6766)
    for column in range(3):
        parts = [(v.label, v.splits[column]) for v in read.videos]
        for label in range(51):
            assert parts.count((label, "train")) == 70
            assert parts.count((label, "test")) == 30
    assert sum(v.splits == ("", "", "") for v in read.videos) == 395
    assert len({v.group for v in read.videos}) == 2291  # each of them of more than the clip itself
    assert not any(v.group.endswith(v.name) for v in read.videos)
