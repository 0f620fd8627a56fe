import csv
import wave

import av
import cv2
import numpy as np
import pytest

from stpyramid_jax.preparation.sources.decode import UnreadableVideo, frames


def test_frames_are_the_ones_written_in_order(tmp_path, make):
    images = make.clip(0, 30)
    make.write_clip(tmp_path / "a.avi", images)
    assert np.array_equal(np.stack(list(frames(tmp_path / "a.avi"))), images)


def test_size_is_width_by_height(tmp_path, make):
    images = make.clip(0, 3)
    make.write_clip(tmp_path / "a.avi", images)
    large = next(frames(tmp_path / "a.avi", (80, 50)))
    assert large.shape == (50, 80, 3)
    assert np.array_equal(large, cv2.resize(images[0], (80, 50), interpolation=cv2.INTER_LINEAR))


def test_shrinking_skips_no_pixel(tmp_path, make):
    noise = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), np.uint8)
    make.write_clip(tmp_path / "a.avi", noise)
    small = next(frames(tmp_path / "a.avi", (16, 12)))
    means = noise[0].reshape(12, 8, 16, 8, 3).mean((1, 3))
    assert np.abs(small - means).max() <= 1


@pytest.fixture
def sweep(tmp_path):
    """An MPEG-4 file with B-frames, 40 frames of noise and growing brightness."""
    noise = np.random.default_rng(0).integers(0, 12, (48, 64, 3), np.uint8)
    with av.open(str(tmp_path / "sweep.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, width=64, height=48)
        stream.codec_context.options = {"bf": "2", "g": "8"}
        for k in range(40):
            image = noise + np.uint8(6 * k)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    return tmp_path / "sweep.avi"


def test_b_frames_come_in_the_order_of_showing(sweep):
    read = [image.mean() for image in frames(sweep)]
    assert len(read) == 40
    assert np.all(np.diff(read) >= 0)
    assert np.abs(np.array(read) - 6 - 6 * np.arange(40)).max() < 12


def unreadable(path):
    with pytest.raises(UnreadableVideo) as caught:
        list(frames(path))
    return str(caught.value)


def test_unreadable_files_say_why(tmp_path, sweep):
    data = sweep.read_bytes()
    (tmp_path / "empty.avi").write_bytes(b"")
    (tmp_path / "text.avi").write_text("no video" * 100)
    (tmp_path / "half.avi").write_bytes(data[: -len(data) // 3])
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", None))
        sound.writeframes(bytes(16000))
    assert "does not decode after 0 frames: Invalid data" in unreadable(tmp_path / "empty.avi")
    assert "does not decode after 0 frames: Invalid data" in unreadable(tmp_path / "text.avi")
    assert "No such file" in unreadable(tmp_path / "absent.avi")
    reason = unreadable(tmp_path / "half.avi")
    assert reason.startswith("truncated: ")
    assert reason.endswith(" of 40 frames")
    assert unreadable(tmp_path / "sound.wav") == "no video stream"


def test_real_clips_have_their_known_frames(real):
    rows = list(csv.DictReader((real / "ucf10" / "clips.csv").read_text().splitlines()))
    assert len(rows) == 410
    for row in rows[::16]:
        path = real / "ucf10" / "videos" / row["path"]
        assert sum(1 for _ in frames(path)) == int(row["frames"]), row["name"]


def test_odd_real_clips_decode(real):
    # One carries metadata that is not UTF-8; three declare a frame more than they hold.
    counts = [sum(1 for _ in frames(path)) for path in sorted((real / "singles").iterdir())]
    assert counts == [72, 332, 48, 83, 240]
