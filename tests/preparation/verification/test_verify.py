"""A prepared folder and its damages: each is found, named by file and record, and none raises."""

import csv
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpyramid_jax.preparation.verification.inspection import inspect
from stpyramid_jax.preparation.verification.verify import verify
from tests.preparation.verification.conftest import build, field


def test_a_sound_folder_is_counted(prepared):
    report = inspect(prepared)
    assert report.problems == []
    rows = list(csv.DictReader((prepared / "videos.csv").read_text().splitlines()))
    for family, column, known in (("rgb", "frames", 48), ("flow", "fields", 45)):
        tally = report.tallies[family]
        files = prepared.glob(f"*-{family}.tfrecord-*")
        assert tally.records == sum(int(row[column]) for row in rows) == known
        assert tally.bytes == sum(path.stat().st_size for path in files)
        assert tally.decoded == known  # each shard has one video here
    # The clips move by (2, 1) pixels a frame.
    assert report.tallies["flow"].length / 45 == pytest.approx(np.hypot(2, 1), rel=0.2)


def test_frames_alone_are_sound_too(tmp_path):
    clips = {("a", "A"): [field(0, 0)] * 3, ("b", "B"): [field(0, 0)]}
    folder = build(tmp_path / "set", clips, ("rgb",))
    assert inspect(folder).problems == []
    assert verify(folder)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_every_damage_is_named(prepared, tmp_path_factory, data):
    names = sorted({path.name for path in prepared.iterdir()} - {"contact.png"})
    name = data.draw(st.sampled_from(names))
    folder = tmp_path_factory.mktemp("damaged")
    for other in names:
        (folder / other).hardlink_to(prepared / other)
    path, whole = folder / name, (folder / name).read_bytes()
    path.unlink()
    kind = data.draw(st.sampled_from(["flip", "cut", "add", "remove"]))
    place = data.draw(st.integers(0, len(whole) - 1))
    if kind == "flip":
        bit = 1 << data.draw(st.integers(0, 7))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
    elif kind == "cut":
        path.write_bytes(whole[:place])
    elif kind == "add":
        path.write_bytes(whole + b"x")
    problems = inspect(folder).problems
    shutil.rmtree(folder)
    if kind == "cut" and path.name == "dataset.json" and whole[place:] == b"\n":
        return  # the same JSON
    assert any(path.name in problem for problem in problems)
    assert all(len(problem) < 2000 and problem.isprintable() for problem in problems)
    if kind == "flip" and ".tfrecord-" in path.name:
        starts = np.cumsum([0, *record_sizes(whole)])
        record = int(np.searchsorted(starts, place, "right")) - 1
        (line,) = (problem for problem in problems if ": record " in problem)
        assert line.startswith(f"{path.name}: record {record} (")
        assert f"at offset {starts[record]};" in line


def record_sizes(data):
    """Lengths of the records of a shard, by their own headers."""
    while data:
        length = 16 + int.from_bytes(data[:8], "little")
        yield length
        data = data[length:]


def test_a_folder_that_is_not_complete_is_one_line(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "absent"):
        assert verify(folder) is False
        out, error = capsys.readouterr()
        assert out == ""
        assert error.count("\n") == 1
        assert error.startswith(f"error: {folder}: no dataset.json, so no complete data set; ")


def test_the_command_tells_and_draws(prepared, copy, capsys):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert verify(copy) is True
    out, error = capsys.readouterr()
    assert error == ""
    lines = out.splitlines()
    assert lines[-1] == f"{copy}: sound; for a look at it: {copy / 'contact.png'}"
    assert [line.split()[:2] for line in lines[1:3]] == [["rgb", "48"], ["flow", "45"]]
    after = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert after.pop("contact.png").startswith(b"\x89PNG")
    assert after == before
    assert verify(copy) is True  # with the picture there, too

    (copy / "videos.csv").unlink()
    capsys.readouterr()
    assert verify(copy) is False
    assert "error: videos.csv: missing\n" in capsys.readouterr().err
