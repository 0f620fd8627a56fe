"""Odd, damaged and hostile videos: each is prepared right or named with a reason, no other touched.

`STPYRAMID_DAMAGED=200 pytest tests/preparation/test_fuzz.py` damages 200 clips instead of a sample.
"""

import csv
import itertools
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from stpyramid_jax import records
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.preparation.sources.decode import MAX_PIXELS, UnreadableVideo, frames
from stpyramid_jax.preparation.verification.inspection import inspect
from tests.preparation.odd_clips import (
    LEVELS,
    NAMED,
    NAMES,
    WHOLE,
    cut,
    encode,
    grey,
    jpeg,
    mux,
    png,
    turned,
    write_damaged,
    write_named,
)

DAMAGED = int(os.environ.get("STPYRAMID_DAMAGED", "24"))
SECONDS = 60 + DAMAGED  # a watchdog, far above what it takes
MEMORY = 2 * 10**9  # bytes of a process

PREPARE = """
import resource, sys
from pathlib import Path
from stpyramid_jax.preparation.choices import Choices
from stpyramid_jax.preparation.run import prepare
videos, out, workers = sys.argv[1:]
prepare(Choices("folder", Path(videos), Path(out), flow="dis", size=(64, 48), workers=int(workers)))
both = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
print(max(resource.getrusage(which).ru_maxrss for which in both))
"""


def prepared(videos, out, workers):
    """Prepares in processes that are killed when they hang, and looks at their memory."""
    command = [sys.executable, "-c", PREPARE, str(videos), str(out), str(workers)]
    # A process inherits the peak of the one that starts it: a small one stands between.
    between = ["sh", "-c", '"$@"; exit $?', "sh"]
    result = subprocess.run([*between, *command], capture_output=True, text=True, timeout=SECONDS)
    assert result.returncode == 0, result.stdout + result.stderr
    most = int(result.stdout.splitlines()[-1]) * (1 if sys.platform == "darwin" else 1024)
    assert most < MEMORY
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder of whole clips in one class: odd forms, and names."""
    folder = tmp_path_factory.mktemp("whole") / "videos" / "Whole"
    folder.mkdir(parents=True)
    for name, settings in WHOLE.items():
        encode(folder / name, **settings)
        if name.startswith("not UTF-8"):
            data = (folder / name).read_bytes()
            assert data.count(b"TITLE") == 4
            (folder / name).write_bytes(data.replace(b"TITLE", b"\xff\xfe\xc3\x28\x80"))
    sizes = itertools.cycle([(64, 48), (48, 64), (20, 10)])
    grows = [jpeg(level, *size) for level, size in zip(LEVELS, sizes, strict=False)]
    mux(folder / "other sizes.avi", "mjpeg", grows)
    for name in NAMES:
        (folder / name).symlink_to("xvid.avi")
    return folder


@pytest.fixture(scope="module")
def listening():
    """A server on this machine that nobody may call."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.fixture(scope="module")
def mixed(whole, listening, tmp_path_factory):
    """The same folder with what is no video and damaged clips beside."""
    folder = tmp_path_factory.mktemp("mixed") / "videos"
    (folder / "Whole").mkdir(parents=True)
    for path in whole.iterdir():
        (folder / "Whole" / path.name).symlink_to(path)
    for name in ("Named", "Zdamaged", "Damaged"):
        (folder / name).mkdir()
    (folder / "Named" / "xvid.avi").write_bytes((whole / "xvid.avi").read_bytes())
    write_named(folder / "Named", folder / "Named" / "xvid.avi", listening.getsockname()[1])
    forms = (
        "xvid.avi",
        "mjpeg.avi",
        "h264.mp4",
        "first.mp4",
        "pieces.mp4",
        "matroska.mkv",
        "vp8.webm",
    )
    forms += ("vp9.webm", "program.mpg", "wmv.wmv", "flash.flv", "sound.avi", "alpha.mov")
    write_damaged(folder / "Damaged", [whole / name for name in forms], DAMAGED)
    (folder / "Zdamaged" / "last.avi").write_bytes((whole / "xvid.avi").read_bytes())
    return folder


@pytest.fixture(scope="module")
def alone(whole, tmp_path_factory):
    return prepared(whole.parent, tmp_path_factory.mktemp("alone") / "out", 1)


@pytest.fixture(scope="module")
def out(mixed, tmp_path_factory):
    return prepared(mixed, tmp_path_factory.mktemp("out") / "out", 2)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def images_of(out):
    """Every image of a prepared folder, as (path of the video, family, number) to its bytes."""
    dataset = json.loads((out / "dataset.json").read_text())
    images = {}
    for family in dataset["families"]:
        with np.load(out / "index.npz") as index:
            ends = iter(index[f"{family}_offsets"].tolist())
        for row in rows(out / "videos.csv"):
            count = int(row["frames" if family == "rgb" else "fields"])
            name = records.shard_file(dataset["name"], family, int(row["shard"]), dataset["shards"])
            data = (out / name).read_bytes()
            offsets = list(itertools.islice(ends, count + 1))
            for number, (start, end) in enumerate(itertools.pairwise(offsets)):
                example = records.decode_example(data[start + 12 : end - 4])
                images[row["path"], family, number] = example["image"]
    return images


def test_every_video_is_prepared_or_named_once(mixed, out):
    listed = {p.relative_to(mixed).as_posix() for p in mixed.glob("*/*")}
    errors = rows(out / "errors.csv")
    told = Counter(row["path"] for row in (*rows(out / "videos.csv"), *errors))
    assert told == dict.fromkeys(listed, 1)
    for error in errors:
        assert error["reason"].strip()
        assert error["reason"].isprintable()


def test_whole_clips_are_prepared_right(whole, alone):
    shards = Shards(alone)
    assert {Path(row["path"]).name for row in rows(alone / "videos.csv")} == {
        path.name for path in whole.iterdir()
    }
    for number, video in enumerate(shards.videos):
        assert video.frames == 12, video.name
        levels = [shards.rgb(number, frame).mean() for frame in range(12)]
        assert np.abs(levels - LEVELS).max() < 6, video.name


def test_bad_videos_alter_no_others_bytes(alone, out):
    expected, found = images_of(alone), images_of(out)
    assert len(expected) > 23 * len(WHOLE)
    assert {
        place: found[f"Whole/{place[0].split('/')[-1]}", *place[1:]] for place in expected
    } == expected
    copy = {place: data for place, data in found.items() if place[0] == "Zdamaged/last.avi"}
    assert [*copy.values()] == [found["Whole/xvid.avi", *place[1:]] for place in copy]


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers_among_bad_videos(mixed, out, tmp_path):
    single = prepared(mixed, tmp_path / "out", 1)
    there, here = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in (out, single))
    assert there == here


def test_what_is_no_video_is_named_with_its_reason(out):
    reasons = {Path(row["path"]).name: row["reason"] for row in rows(out / "errors.csv")}
    assert {name for name, sign in NAMED.items() if sign not in reasons.get(name, "")} == set()


def test_no_list_is_followed(out, listening):
    with pytest.raises(BlockingIOError):
        listening.accept()


def test_what_is_prepared_of_damaged_clips_decodes(out):
    assert inspect(out).problems == []
    assert any(row["class"] == "Damaged" for row in rows(out / "videos.csv"))


def matrix(a, b, c, d):
    return [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]


@pytest.mark.parametrize(
    ("display", "shown"),
    [
        (matrix(1, 0, 0, 1), lambda image: image),
        (matrix(0, 1, -1, 0), lambda image: np.rot90(image, -1)),  # a phone held upright
        (matrix(0, -1, 1, 0), lambda image: np.rot90(image)),
        (matrix(-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        (matrix(-1, 0, 0, 1), np.fliplr),
        (matrix(1, 0, 0, -1), np.flipud),
        (matrix(0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
        (matrix(0, 0, 0, 0), lambda image: image),
    ],
)
def test_frames_are_turned_as_players_show_them(tmp_path, display, shown):
    images = [turned(level) for level in LEVELS]
    encode(tmp_path / "a.mp4", "libx264", images, matrix=display)
    found = [image.astype(float) for image in frames(tmp_path / "a.mp4")]
    assert len(found) == 12
    for image, there in zip(found, images, strict=True):
        assert np.abs(image - shown(there)).mean() < 6


@pytest.mark.parametrize("number", [1, 6])
def test_what_an_edit_list_cuts_away_is_not_missed(tmp_path, number):
    encode(tmp_path / "a.mp4", "libx264", [grey(level) for level in np.tile(LEVELS, 2)])
    cut(tmp_path / "a.mp4", tmp_path / "cut.mp4", number)
    levels = [image.mean() for image in frames(tmp_path / "cut.mp4")]
    assert len(levels) == 24 - number
    assert np.abs(levels - np.tile(LEVELS, 2)[number:]).max() < 6


def test_a_cut_off_mp4_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (24, 48, 64, 3), np.uint8)
    encode(tmp_path / "a.mp4", "libx264", [*noise], format={"movflags": "faststart"})
    with av.open(str(tmp_path / "a.mp4")) as container:
        end = container.streams.video[0].index_entries[15].pos
    os.truncate(tmp_path / "a.mp4", end)
    with pytest.raises(UnreadableVideo, match="truncated: 15 of 24 frames"):
        list(frames(tmp_path / "a.mp4"))


def test_frames_that_grow_beyond_the_limit_are_refused(tmp_path):
    side = int(MAX_PIXELS**0.5) + 1
    mux(tmp_path / "a.avi", "png", [*[png(64, 48)] * 12, png(side, side)])
    read = iter(frames(tmp_path / "a.avi"))
    with pytest.raises(UnreadableVideo, match="does not decode after 12 frames"):
        list(read)
