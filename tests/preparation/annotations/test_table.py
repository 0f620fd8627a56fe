import csv
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpyramid_jax.preparation.annotations import read_table
from stpyramid_jax.preparation.annotations.listing import UNWRITABLE


@pytest.fixture
def table(tmp_path):
    """Writes text as a table, and gives (table, folder of videos)."""

    def write(text, encoding="utf-8"):
        path = tmp_path / "my table (2).csv"
        path.write_bytes(text.encode(encoding))
        return path, tmp_path / "videos"

    return write


def anything(path):
    return True


def test_rows_become_videos_in_order_of_class_and_path(table, disk):
    listed = table("path,label,split\nb/2.mp4,Run,test\na/1.avi,Walk,train\nb/1.mp4,Run,train\n")
    disk.touch(listed[1], "b/2.mp4", "a/1.avi", "b/1.mp4")
    read = read_table(*listed)
    assert (read.name, read.classes, read.splits) == ("my_table_2", ("Run", "Walk"), ("split1",))
    assert [(v.name, v.path, v.class_name, v.label, v.group, v.splits) for v in read.videos] == [
        ("b/1", "b/1.mp4", "Run", 0, "b/1", ("train",)),
        ("b/2", "b/2.mp4", "Run", 0, "b/2", ("test",)),
        ("a/1", "a/1.avi", "Walk", 1, "a/1", ("train",)),
    ]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_quoting_order_of_columns_blanks_and_line_ends_do_not_matter(table, encoding, newline):
    lines = (
        "split2, group ,label,path,split1",
        'train,g 1,"Clean, and Jerk",./x//a.avi,',
        "",
        ',,"Say ""no""",- b.avi, test ',
        ",,,,",
    )
    read = read_table(*table(newline.join(lines), encoding), there=anything)
    assert [(v.path, v.class_name, v.group, v.splits) for v in read.videos] == [
        ("x/a.avi", "Clean, and Jerk", "g 1", ("", "train")),
        ("- b.avi", 'Say "no"', "- b", ("test", "")),
    ]


def test_several_splits_may_leave_a_video_out(table):
    read = read_table(*table("path,label,split2,split1\na,A,,test\nb,A,,\n"), there=anything)
    assert read.splits == ("split1", "split2")
    assert [v.splits for v in read.videos] == [("test", ""), ("", "")]


@pytest.mark.parametrize(
    "header",
    [
        "path,label",
        "path;label;split",
        "path,label,split,split1",
        "path,label,split2",
        "path,label,split1,split3",
        "path,label,split,split",
        "path,label,split,grup",
        "path,label,split,path",
        "Path,label,split",
        "label,split",
    ],
)
def test_other_columns_are_refused(table, disk, header):
    listed = table(f"{header}\na,b,train,test\n")
    assert disk.faults(read_table, *listed) == [
        f"{listed[0]}: the columns are {header!r}; expected path,label,split or "
        "split1,split2,... in its place, and group if there are groups"
    ]


def test_every_malformed_row_is_named_with_its_line(table, disk):
    listed = table(
        "path,label,split\n"
        "a.avi,A,train\n"
        "b.avi,A\n"
        '"c\nd.avi",A,train\n'
        "e.avi,A,Train\n"
        ",A,test\n"
        " ,, \n"
        "./a.avi,A,train\n"
        "f.avi,,\n"
        "g.avi,A,train,\n"
    )
    assert disk.faults(read_table, *listed, there=anything) == [
        f"{listed[0]}, line {line}"
        for line in (
            "3: 2 cells under 3 columns",
            "6: 'Train' is not train or test",
            "7: no path",
            "9: a.avi is in line 2 already",
            "10: no label",
            "10: '' is not train or test",
            "11: 4 cells under 3 columns",
        )
    ]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", ": holds no videos; expected a header and a row for each video"),
        (b"path,label,split\n\n", ": holds no videos; expected a header and a row for each video"),
        (
            b'path,label,split\na,A,train\nb,"A,train\nc,A,test\n',
            ", line 3: unexpected end of data",
        ),
        (
            b"path,label,split\n" + b"a" * 200_000,
            ", line 2: field larger than field limit (131072)",
        ),
        ("path,label,split".encode("utf-16"), ": not a text file in UTF-8 ("),
    ],
)
def test_files_that_are_no_such_table_are_refused(table, disk, data, line):
    path, videos = table("")
    path.write_bytes(data)
    (found,) = disk.faults(read_table, path, videos)
    assert found.startswith(f"{path}{line}")


def test_a_table_that_is_not_there_is_refused(tmp_path, disk):
    for path in (tmp_path, tmp_path / "none.csv"):
        assert disk.faults(read_table, path, tmp_path) == [f"{path}: no such file"]


def test_names_that_cannot_be_stored_or_lead_out_are_refused_before_they_are_looked_for(
    table, disk
):
    listed = table(
        "path,label,split,group\n"
        '"A/new\nline.avi",A,train,\n'
        "A/nul\0.avi,A,train,\n"
        "A/sep\u2028.avi,A,train,\n"
        "../x.avi,A,train,\n"
        "/etc/x.avi,A,train,\n"
        'A/g.avi,A,train,"a\rb"\n'
        'A/h.avi,"two\nlines",train,\n'
        "A/..i/..avi,A,train,\n"
    )
    asked = []
    lines = disk.faults(read_table, *listed, there=asked.append)
    assert lines == [
        r"class 'two\nlines' holds '\n'; rename it",
        r"A/new\nline.avi: name or group holds '\n'; rename it",
        r"A/nul\x00.avi: name or group holds '\x00'; rename it",
        r"A/sep\u2028.avi: name or group holds '\u2028'; rename it",
        "../x.avi: not a path inside the folder of videos",
        "/etc/x.avi: not a path inside the folder of videos",
        r"A/g.avi: name or group holds '\r'; rename it",
        f"{listed[1]}/A/..i/..avi: listed, but not on disk",
        f"{listed[1]}/A/h.avi: listed, but not on disk",
    ]
    assert asked == ["A/..i/..avi", "A/h.avi"]


def test_names_that_only_differ_in_how_letters_are_composed_are_one(table, disk):
    one, two = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    listed = table(f"path,label,split\na.avi,{one},train\nb.avi,{two},test\n")
    assert (
        disk.faults(read_table, *listed, there=anything)
        == [
            "class 'Caf\\xe9': listed twice",
            "class 'Cafe\\u0301': listed twice",
        ][::-1]
    )
    listed = table(f"path,label,split\n{one}.avi,A,train\n{two}.avi,A,test\n")
    assert disk.faults(read_table, *listed, there=anything) == [
        f"{listed[0]}, line 3: {two}.avi is in line 2 already"
    ]
    listed = table(f"path,label,split\n{one}/{one}.avi,{one},train\n")
    disk.touch(listed[1], f"{two}/{two}.avi")
    (video,) = read_table(*listed, classes=[two]).videos
    assert (video.name, video.path) == (f"{one}/{one}", f"{two}/{two}.avi")  # as listed, as on disk


def test_groups_and_chosen_classes_are_checked_as_in_other_lists(table, disk):
    text = "path,label,split,group\na.avi,A,train,g\nb.avi,B,test,g\nv_g01_c1.avi,B,train,\n"
    listed = table(text)
    assert disk.faults(read_table, *listed, there=anything) == [
        "split1: group g is on both sides: a.avi in train, b.avi in test"
    ]
    read = read_table(*listed, classes=["B"], there=anything)
    assert [(v.label, v.group) for v in read.videos] == [(0, "g"), (0, "B_g01")]
    assert disk.faults(read_table, *listed, classes=["C"])[0].startswith("--classes: unknown")
    assert disk.faults(read_table, *table(text + "a.mp4,A,train,\n"), there=anything)[:2] == [
        "a.avi: duplicate name 'a'",
        "a.mp4: duplicate name 'a'",
    ]


def test_missing_videos_are_named_or_left_out(table, disk):
    path, videos = table("path,label,split\na.avi,A,train\nb.avi,A,test\n")
    disk.touch(videos, "b.avi")
    assert disk.faults(read_table, path, videos) == [f"{videos}/a.avi: listed, but not on disk"]
    read = read_table(path, videos, missing="skip")
    assert ([v.path for v in read.videos], read.missing) == (["b.avi"], 1)
    (videos / "b.avi").unlink()
    assert disk.faults(read_table, path, videos, missing="skip") == [
        f"{videos}: holds none of the 2 listed videos"
    ]


names = st.text(min_size=1, max_size=20).filter(
    lambda text: not UNWRITABLE.search(text) and "/" not in text and text.strip() == text
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(names, names, min_size=1, max_size=5))
def test_any_name_that_can_be_stored_comes_out_as_it_was(tmp_path_factory, labels):
    """Against the CSV writer of the standard library; what lists hold is what shards can hold."""
    labels = {
        unicodedata.normalize("NFC", n): unicodedata.normalize("NFC", c) for n, c in labels.items()
    }
    path = tmp_path_factory.mktemp("table") / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("path", "label", "split"), *((f"x/{n}.avi", c, "train") for n, c in labels.items())]
        )
    read = read_table(path, Path("nowhere"), there=anything)
    assert {v.name: v.class_name for v in read.videos} == {f"x/{n}": c for n, c in labels.items()}
    assert read.classes == tuple(sorted(set(labels.values())))
    for video in read.videos:
        assert video.name.encode().decode() == video.name
        assert len(f"{video.path},{video.class_name},{video.group}".splitlines()) == 1
