"""The command `data/prepare.py`: its flags, exit statuses and last words."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from data import prepare

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos") / "my clips"
    rng = np.random.default_rng(0)
    for path in ("train/A/1.avi", "train/B/1.avi", "test/A/1.avi", "test/B/1.avi"):
        (folder / path).parent.mkdir(parents=True)
        video = cv2.VideoWriter(
            str(folder / path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48), isColor=True
        )
        for _ in range(40):
            video.write(rng.integers(0, 256, (48, 64, 3), np.uint8))
        video.release()
    return folder


def flags(videos, out, *more):
    paths = ("--dataset=folder", f"--videos={videos}", f"--out={out}")
    return [*paths, "--size=32x24", "--flow=dis", "--workers=1", *more]


@pytest.fixture
def call(monkeypatch, capsys):
    """Calls the command in this process: (status, stdout, stderr)."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["prepare.py", *flags(*args)])
        try:
            status = prepare.main()
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return call


def tree(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_killed_among_its_workers_and_called_again(clips, tmp_path, call):
    command = [sys.executable, "data/prepare.py", *flags(clips, tmp_path / "out", "--workers=2")]
    with subprocess.Popen(command, cwd=ROOT) as process:
        while not list(tmp_path.glob("out/.shard-*")):
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
    assert not (tmp_path / "out" / "dataset.json").exists()

    words = "4 videos, 160 frames, 156 fields, 0 errors\n"
    assert call(clips, tmp_path / "out") == (0, f"{tmp_path / 'out'}: {words}", "")
    assert call(clips, tmp_path / "unbroken") == (0, f"{tmp_path / 'unbroken'}: {words}", "")
    assert tree(tmp_path / "out") == tree(tmp_path / "unbroken")
    assert "my_clips-rgb.tfrecord-00003-of-00004" in tree(tmp_path / "out")


def test_refused_input_is_named_with_status_2(clips, tmp_path, call):
    assert call(clips, tmp_path / "out", "--classes=A,b,Q") == (
        2,
        "",
        "error: --classes: unknown class 'b', the nearest is 'B'\n"
        "error: --classes: unknown class 'Q', the nearest is 'A'\n",
    )
    assert not (tmp_path / "out").exists()


def test_a_fatal_video_is_named_with_status_1(tmp_path, call):
    for part in ("train", "test"):
        (tmp_path / "clips" / part / "A").mkdir(parents=True)
        (tmp_path / "clips" / part / "A" / "bad.avi").write_bytes(b"not a video")
    status, out, error = call(tmp_path / "clips", tmp_path / "out", "--on_error=fail")
    assert (status, out) == (1, "")
    assert error.startswith("error: test/A/bad.avi: does not decode")
    assert error.count("\n") == 1


def test_an_out_folder_that_cannot_be_made_is_one_line_with_status_1(clips, tmp_path, call):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    assert call(clips, out) == (1, "", f"error: {out}: Not a directory\n")


def test_a_full_disk_is_one_line_with_status_1(clips, tmp_path, call):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # bytes a file may have
    try:
        result = call(clips, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result == (1, "", f"error: {tmp_path / 'out'}: File too large\n")
    assert not list((tmp_path / "out").glob("*.part"))
    assert call(clips, tmp_path / "out")[0] == 0


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--verify"], "--verify: takes --out alone, not --dataset"),
        (["--images=a,"], "argument --images: 'a,': an empty name between commas"),
        (["--download=d"], "--download: is for --dataset=ucf101, without --videos"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(clips, tmp_path, call, more, line):
    status, out, error = call(clips, tmp_path / "out", *more)
    assert (status, out) == (2, "")
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1


def test_nothing_is_downloaded_for_what_cannot_be_prepared(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare, "download_ucf101", lambda folder: pytest.fail("downloads"))
    flags = ["--dataset=ucf101", f"--download={tmp_path}", f"--out={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", ["prepare.py", *flags, "--workers=0"])
    assert prepare.main() == 2
    assert capsys.readouterr().err == "error: --workers=0: needs at least 1\n"


def test_a_prepared_folder_is_verified(clips, tmp_path, call, monkeypatch, capsys):
    call(clips, tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--verify", f"--out={tmp_path / 'out'}"])
    assert prepare.main() == 0
    assert "sound" in capsys.readouterr().out
    assert (tmp_path / "out" / "contact.png").exists()
    (tmp_path / "out" / "index.npz").unlink()
    assert prepare.main() == 1
    assert "error: index.npz" in capsys.readouterr().err


def test_misspelt_size_is_refused_with_status_2(clips, tmp_path, call):
    status, _, error = call(clips, tmp_path / "out", "--size=340")
    assert status == 2
    assert error == "error: argument --size: '340' is not WIDTHxHEIGHT, such as 340x256\n"
