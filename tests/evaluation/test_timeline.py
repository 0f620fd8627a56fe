"""Windows over a video as a stream, what the model is shown of them, and the table they give."""

import csv
import itertools
import weakref
from fractions import Fraction

import cv2
import numpy as np
import pytest

from stpyramid_jax.evaluation import timeline
from stpyramid_jax.evaluation.timeline import Moment, Window, moments, windows, write_timeline
from stpyramid_jax.input.config import InputConfig

CONFIG = InputConfig(snippets=2, snippet_length=4, test_tau=3, crop=8, test_scale=1.0)
LENGTH = 7  # fields of a window, (2 - 1) 3 + 4
STEP = 2


def frame(number):
    return np.full((8, 8, 3), number % 251, np.uint8)


def field(number):
    return np.stack([np.full((8, 8), (number + axis) % 241, np.uint8) for axis in (0, 1)])


@pytest.fixture
def computed(monkeypatch):
    """Numbers the fields between frames, and lists those that are computed."""
    computed = []

    def flow_fields(images, method, families):
        assert (method, families) == ("dis", ("flow",))
        images = itertools.chain(images)
        ahead = list(itertools.islice(images, 3))  # as batches on a device are
        for number in itertools.count():
            if len(ahead) < 2:
                return
            computed.append(number)
            yield (field(number),)
            ahead = ahead[1:] + list(itertools.islice(images, 1))

    monkeypatch.setattr(timeline, "flow_fields", flow_fields)
    return computed


def seen(images, config=CONFIG):
    return windows(images, "dis", config)


@pytest.mark.parametrize("count", [5, 7, 8, 9, 10, 11, 40])
def test_windows_are_the_stretches_of_the_video_to_its_end(computed, count):
    found = list(seen([frame(k) for k in range(count)]))
    last = max(0, count - 1 - LENGTH)
    starts = sorted({*range(0, last + 1, STEP), last})
    assert [window.start for window in found] == starts
    for window in found:
        numbers = range(window.start, min(window.start + LENGTH + 1, count))
        np.testing.assert_array_equal(window.images, [frame(k) for k in numbers])
        np.testing.assert_array_equal(window.fields, [field(k) for k in numbers[:-1]])
    assert computed == list(range(count - 1))  # each once


def test_a_model_without_flow_has_none_computed(computed):
    config = InputConfig(**{**vars(CONFIG), "streams": "spatial"})
    found = list(seen([frame(k) for k in range(20)], config))
    assert computed == []
    assert [window.start for window in found] == [0, 2, 4, 6, 8, 10, 12]
    assert all(not window.fields for window in found)


def test_the_past_of_an_endless_video_is_forgotten(computed):
    alive = weakref.WeakSet()

    class Tracked(np.ndarray):
        __hash__ = object.__hash__

    def endless():
        for number in itertools.count():
            image = frame(number).view(Tracked)
            alive.add(image)
            yield image

    rows, held = 4, {}
    for moment in itertools.islice(moments(seen(endless()), CONFIG, look_at_frame, rows), 200):
        held[moment.window.start] = len(alive)
    assert max(held) == 199 * STEP
    assert max(held.values()) <= 2 * (LENGTH + 1 + rows * STEP)


def look_at_frame(images):
    """What it says of a row is the number of the frame and of the first field."""
    rgb, flow = images["rgb"], images["flow"]
    told = np.stack([rgb[:, 0, 0, 0], flow[:, 0, 0, 0, 0]], axis=-1).astype(float)
    return told, rgb[:, :2, :2, 0].astype(float)


@pytest.mark.parametrize("rows", [1, 4, 64])
def test_the_model_sees_the_middle_frame_and_the_snippets_of_each_window(computed, rows):
    batches = []

    def look(images):
        batches.append({name: array.shape for name, array in images.items()})
        middle, first = images["rgb"][0, 0, 0, 0], images["flow"][0, 0, 0, 0, 0]
        assert middle - first == LENGTH // 2
        expected = [[first + 3 * t + k + axis for k in range(4) for axis in (0, 1)] for t in (0, 1)]
        np.testing.assert_array_equal(images["flow"][0, :, 5, 5], expected)
        return look_at_frame(images)

    found = list(moments(seen([frame(k) for k in range(40)]), CONFIG, look, rows))
    # One shape, whatever is left for the last: nothing is compiled again.
    assert {tuple(shapes.items()) for shapes in batches} == {
        (("rgb", (rows, 8, 8, 3)), ("flow", (rows, 2, 8, 8, 8)))
    }
    assert [moment.window.start for moment in found] == list(range(0, 33, STEP))
    for moment in found:
        assert moment.probabilities.tolist() == [moment.window.middle, moment.window.start]
        assert (moment.attention == moment.window.middle).all()


def test_a_video_shorter_than_a_window_is_one_moment(computed):
    (moment,) = moments(seen([frame(k) for k in range(6)]), CONFIG, look_at_frame, 8)
    assert moment.window.start == 0
    assert moment.probabilities[0] in (2, 3)  # its middle


def test_frames_and_fields_of_a_file_are_those_of_preparation(sprites):
    """A real stream, through the decoder and a flow that looks ahead."""
    from stpyramid_jax.preparation.sources.decode import frames
    from stpyramid_jax.preparation.sources.flow import flow_fields

    path = sorted((sprites / "sprites" / "test").glob("*/*.avi"))[0]
    images = list(frames(path, (40, 32)))
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    fields = [field for (field,) in flow_fields(grey, "dis", ("warped",))]
    config = InputConfig(motion="warped", snippets=2, snippet_length=4, test_tau=3)
    found = list(windows(frames(path, (40, 32)), "dis", config))
    assert found[-1].start + LENGTH + 1 == len(images)
    for window in found:
        part = slice(window.start, window.start + LENGTH)
        np.testing.assert_array_equal(window.images[:-1], images[part])
        np.testing.assert_array_equal(window.fields, fields[part])


CLASSES = ["Jump", 'a "b", c', "$x^$", "line\nbreak", "打鼓"]


def some_moments(count, step=5):
    """Windows of 9 frames in which one class after the other is likely."""
    rng = np.random.default_rng(0)
    for k in range(count):
        row = rng.uniform(0, 0.01, len(CLASSES))
        row[k * 4 // count] = 0.9
        row[3] = 0.2
        yield Moment(Window(step * k, [frame(0)] * 9, []), row / row.sum(), None)


def test_the_table_has_times_classes_and_probabilities(tmp_path):
    path = tmp_path / "clip.avi.csv"
    given = list(some_moments(12))
    passed = list(write_timeline(given, path, "clip", CLASSES, Fraction(30000, 1001)))
    assert passed == given
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["start", "end", "class", "probability", *CLASSES]
    for k, (row, moment) in enumerate(zip(rows, given, strict=True)):
        assert float(row[0]) == pytest.approx(5 * k * 1001 / 30000, abs=1e-3)
        assert float(row[1]) == pytest.approx((5 * k + 9) * 1001 / 30000, abs=1e-3)
        assert row[2] == CLASSES[moment.probabilities.argmax()]
        assert float(row[3]) == pytest.approx(moment.probabilities.max(), abs=1e-4)
        np.testing.assert_allclose(np.array(row[4:], float), moment.probabilities, atol=1e-4)
    picture = cv2.imread(str(tmp_path / "clip.avi.png"))
    assert picture.shape[1] > 1000


def test_rows_are_written_as_the_video_goes_on(tmp_path):
    """A day of video is not held until its end."""
    drawn = []
    coming = (drawn.append(k) or m for k, m in enumerate(some_moments(3)))
    passing = write_timeline(coming, tmp_path / "a.csv", "", CLASSES, Fraction(25))
    for k, _ in enumerate(passing):
        assert drawn == list(range(k + 1))


def test_the_strip_shows_each_class_over_the_time_that_it_has():
    given = list(some_moments(12))
    rows = np.array([moment.probabilities for moment in given])
    middles = np.array([moment.window.middle + 0.5 for moment in given]) / 25
    figure = timeline._strip("$", CLASSES, middles, rows, 2.56)
    axes = figure.axes[0]
    # What is never likely (the last) is left out; the others stand in the order of their peaks.
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["Jump", 'a "b", c', "$x^$", "line\nbreak"]
    mesh = axes.collections[0]
    np.testing.assert_array_equal(mesh.get_array(), rows[:, :4].T)
    edges = mesh.get_coordinates()[0, :, 0]
    assert (edges[0], edges[-1]) == (0, 2.56)
    assert (edges[:-1] < middles).all()
    assert (middles < edges[1:]).all()


def test_a_strip_of_one_window_and_of_no_likely_class(tmp_path):
    classes = [f"class {k}" for k in range(101)]
    row = np.full(101, 1 / 101)
    moment = Moment(Window(0, [frame(0)] * 9, []), row, None)
    list(write_timeline([moment], tmp_path / "a.csv", "a", classes, Fraction(25)))
    assert cv2.imread(str(tmp_path / "a.png")) is not None
