"""Videos that cannot be prepared: left out by name, or the end of the run on request."""

import pytest

from tests.preparation.conftest import examples, interrupted, quick, rows, tree


@pytest.fixture
def spoilt(clips, tmp_path):
    """The clips with a file that does not decode and one that is too short."""
    folder = tmp_path / "clips"
    for path in clips.rglob("*.avi"):
        (folder / path.relative_to(clips)).parent.mkdir(parents=True, exist_ok=True)
        (folder / path.relative_to(clips)).symlink_to(path)
    (folder / "Run" / "a.avi").write_bytes(b"not a video")
    return folder


@pytest.fixture
def short(spoilt, make):
    make.write_clip(spoilt / "Run" / "b.avi", make.clip(0, 10))
    return spoilt


def test_unreadable_and_short_videos_are_left_out_by_name(short, unbroken, tmp_path, capsys):
    dataset = quick(short, tmp_path / "out")
    errors = rows(tmp_path / "out" / "errors.csv")
    assert [(e["name"], e["path"]) for e in errors] == [
        ("Run/a", "Run/a.avi"),
        ("Run/b", "Run/b.avi"),
    ]
    assert "Invalid data" in errors[0]["reason"]
    assert errors[1]["reason"] == "has 10 frames, fewer than the 11 of one snippet"
    kept = ("Jump/v_Jump_g01_c01", "Jump/v_Jump_g02_c01", "Run/v_Run_g01_c01")
    assert tuple(r["name"] for r in rows(tmp_path / "out" / "videos.csv")) == kept
    assert (dataset["videos"], dataset["errors"]) == (3, 2)
    assert capsys.readouterr().out.endswith("3 videos, 48 frames, 45 fields, 2 errors\n")
    # What is kept is what it would have been without them.
    ours, theirs = (
        [(e["image"], n) for _, n, e in examples(out, "rgb")]
        for out in (tmp_path / "out", unbroken)
    )
    assert ours == theirs


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_video_ends_the_run_on_request(spoilt, tmp_path, workers):
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match=r"^Run/a\.avi: does not decode .* Invalid data"):
        quick(spoilt, out, on_error="fail", workers=workers)
    assert [e["name"] for e in rows(out / "errors.csv")] == ["Run/a"]
    assert not (out / "dataset.json").exists()
    assert not list(out.glob(".*.part"))
    quick(spoilt, out)  # the work that was done is taken up
    quick(spoilt, tmp_path / "other")
    assert tree(out) == tree(tmp_path / "other")


def test_fail_heeds_what_an_earlier_run_left_out(spoilt, tmp_path, monkeypatch):
    interrupted(spoilt, tmp_path / "out", monkeypatch)
    with pytest.raises(RuntimeError, match=r"^Run/a\.avi: does not decode"):
        quick(spoilt, tmp_path / "out", on_error="fail")
    quick(spoilt, tmp_path / "out")
    with pytest.raises(RuntimeError, match=r"^Run/a\.avi: does not decode"):
        quick(spoilt, tmp_path / "out", on_error="fail")


def test_nothing_but_bad_videos_is_a_failure(tmp_path):
    (tmp_path / "clips" / "A").mkdir(parents=True)
    (tmp_path / "clips" / "A" / "a.avi").write_bytes(b"not a video")
    message = rf"none of the 1 videos could be prepared; {tmp_path}/out/errors\.csv says why"
    with pytest.raises(RuntimeError, match=message):
        quick(tmp_path / "clips", tmp_path / "out")
    (error,) = rows(tmp_path / "out" / "errors.csv")
    assert error["name"] == "A/a"
    assert error["reason"].startswith("does not decode")


def test_a_part_that_errors_empty_is_named_after_the_work(clips, tmp_path, capsys):
    for part, number in (("train", 1), ("test", 2)):
        path = tmp_path / "clips" / part / "Jump" / "a.avi"
        path.parent.mkdir(parents=True)
        path.symlink_to(clips / "Jump" / f"v_Jump_g0{number}_c01.avi")
    quick(tmp_path / "clips", tmp_path / "whole")
    assert capsys.readouterr().err == ""
    path.unlink()
    path.write_bytes(b"not a video")
    quick(tmp_path / "clips", tmp_path / "out")
    warning = "warning: split1 has no test videos, so nothing can be evaluated on it\n"
    assert capsys.readouterr().err == warning
