"""The video that is written: as long and as fast as its source, and what is drawn on it."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stpyramid_jax.evaluation import overlay
from stpyramid_jax.evaluation.overlay import draw, write_overlay
from stpyramid_jax.evaluation.timeline import Moment, Window
from stpyramid_jax.evaluation.videos import frame_rate
from stpyramid_jax.preparation.sources.decode import frames
from stpyramid_jax.preparation.sources.flow import quantise

CLASSES = ["Jump", "Run"]


def moment(start, best=0, attention=None, flow=(0, 0), length=8):
    """Of frames prepared at 68 x 48."""
    field = quantise(np.broadcast_to(np.reshape(flow, (2, 1, 1)), (2, 48, 68)).astype(np.float32))
    images = [np.zeros((48, 68, 3), np.uint8)] * (length + 1)
    return Moment(Window(start, images, [field] * length), np.eye(2)[best], attention)


def video(path, count, size, rate=Fraction(25)):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=rate, width=size[0], height=size[1])
        stream.pix_fmt = "rgb24"
        for k in range(count):
            image = np.full((size[1], size[0], 3), 18 * k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(12)])
@pytest.mark.parametrize(
    ("size", "becomes"),
    [
        ((320, 240), (320, 240)),
        ((321, 241), (322, 242)),
        ((45, 35), (316, 246)),
        ((9, 11), (198, 242)),
    ],
)
@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
def test_it_keeps_frames_and_rate_and_has_even_sides(
    size, becomes, rate, codec, tmp_path, monkeypatch
):
    if codec == "mpeg4":
        monkeypatch.setattr(overlay, "codecs_available", {"mpeg4"})
    source = video(tmp_path / "a.avi", 13, size, rate)
    out = tmp_path / "new name ü.mp4"
    attention = np.full((3, 3), 1 / 9)
    write_overlay([moment(0, 0, attention)], source, out, CLASSES, frame_rate(source), 0.875)
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == codec
        assert abs(stream.average_rate / rate - 1) < 1e-3
        assert (stream.width, stream.height) == becomes
        assert float(stream.duration * stream.time_base) == pytest.approx(13 / rate, rel=0.01)
    images = list(frames(out))
    assert len(images) == 13
    # Each frame is drawn over that of the source: they brighten, above and beside what is drawn.
    corner = [image[: becomes[1] // 4, 0].mean() for image in images]
    np.testing.assert_allclose(corner, [18 * k for k in range(13)], atol=15)
    assert {path.name for path in tmp_path.iterdir()} == {"a.avi", out.name}


def test_each_frame_shows_the_nearest_moment(monkeypatch):
    shown = []
    monkeypatch.setattr(overlay, "draw", lambda image, m, number, *_: shown.append(m) or image)
    given = [moment(start) for start in (0, 3, 6, 7)]  # middles 4, 7, 10, 11
    images = [np.zeros((240, 320, 3), np.uint8)] * 17
    assert len(list(overlay._pictures(iter(images), iter(given), CLASSES, 1.0))) == 17
    for number, found in enumerate(shown):
        distances = [abs(number - m.window.middle) for m in given]
        assert abs(number - found.window.middle) == min(distances)


def test_attention_lies_over_the_crop_that_it_is_of():
    image = np.full((240, 340, 3), 50, np.uint8)
    attention = np.zeros((4, 4))
    attention[0, 0] = 1
    picture = draw(image, moment(0, attention=attention), 0, CLASSES, 0.5)
    # Of 68 x 48 the box has a side of 24: rows 12 to 36, columns 22 to 46; here five times that.
    changed = np.argwhere((picture != 50).any(-1)[:200, :250])
    np.testing.assert_array_equal(changed.min(0), (60, 110))
    # It fades to nothing at the centre of the second cell.
    np.testing.assert_allclose(changed.max(0), (60 + 1.5 * 30, 110 + 1.5 * 30), atol=5)
    brightest = np.unravel_index(picture[:200, :250].sum(-1, dtype=int).argmax(), (200, 250))
    assert 60 <= brightest[0] < 90
    assert 110 <= brightest[1] < 140


@pytest.mark.parametrize(("number", "red"), [(0, True), (4, True), (5, False), (99, False)])
def test_the_corner_shows_the_flow_of_the_frame(number, red):
    still = moment(0)
    right = quantise(np.stack([np.full((48, 68), 5.0), np.zeros((48, 68))]))
    fields = [right if k < 5 else still.window.fields[0] for k in range(8)]
    given = still._replace(window=still.window._replace(fields=fields))
    picture = draw(np.zeros((240, 340, 3), np.uint8), given, number, CLASSES, 0.875)
    r, g, b = picture[20, -30].tolist()
    assert r > 240
    assert max(g, b) < 60 if red else min(g, b) > 230
    assert (picture[:170, :250] == 0).all()


def test_without_flow_or_attention_there_is_the_class_alone():
    given = moment(0)
    given = given._replace(window=given.window._replace(fields=[]))
    image = np.full((240, 340, 3), 90, np.uint8)
    picture = draw(image, given, 0, CLASSES, 0.875)
    assert (picture[:200] == 90).all()
    assert (picture[200:] == 255).any()
    assert (image == 90).all()


@pytest.mark.parametrize("name", ["Run", "HandstandWalking", "打鼓", "a\nb", ""])
def test_words_fit_into_the_picture(name):
    picture = draw(np.zeros((240, 320, 3), np.uint8), moment(0), 0, [name, ""], 0.875)
    band = picture[240 - 34 :].max(-1) > 100
    assert band.any()
    assert not band[:, -2:].any()
    assert not band[:2].any()
    assert not band[-1:].any()


def test_of_a_long_name_the_probability_and_the_beginning_are_there():
    dark, likely = np.zeros((240, 320, 3), np.uint8), moment(0)
    less = likely._replace(probabilities=np.array([0.87, 0]))
    long, longer = (draw(dark, likely, 0, ["Walking" * n, ""], 0.875) for n in (60, 99))
    np.testing.assert_array_equal(long, longer)
    other = draw(dark, less, 0, ["Walking" * 60, ""], 0.875)
    assert (long[206:, :40] != other[206:, :40]).any()


def test_what_goes_wrong_leaves_the_old_file_and_no_new_one(tmp_path):
    source, out = video(tmp_path / "a.avi", 13, (64, 48)), tmp_path / "o.mp4"
    out.write_bytes(b"old")

    def failing():
        yield moment(0)
        yield moment(2)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_overlay(failing(), source, out, CLASSES, Fraction(25), 0.875)
    assert out.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"a.avi", "o.mp4"}


def test_frames_that_change_their_size_are_brought_to_that_of_the_first():
    images = [np.zeros((240, 320, 3), np.uint8), np.zeros((100, 90, 3), np.uint8)]
    pictures = overlay._pictures(iter(images), iter([moment(0)]), CLASSES, 1.0)
    assert [picture.shape for picture in pictures] == [(240, 320, 3)] * 2


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
def test_a_very_slow_video_is_shown_at_the_least_rate(codec, tmp_path, monkeypatch, capsys):
    if codec == "mpeg4":
        monkeypatch.setattr(overlay, "codecs_available", {"mpeg4"})
    source, out = video(tmp_path / "a.avi", 3, (64, 48)), tmp_path / "o.mp4"
    write_overlay([moment(0)], source, out, CLASSES, Fraction(1, 3000), 0.875)
    assert frame_rate(out) == Fraction(1, 1001)
    assert "a.avi: 1/3000 frames a second, shown as 1/1001" in capsys.readouterr().err
    write_overlay([moment(0)], source, out, CLASSES, Fraction(1, 1001), 0.875)
    assert not capsys.readouterr().err
