"""Colours mean what the docstrings say: known directions, lengths, and places of attention."""

import numpy as np
import pytest

from stpyramid_jax.colour import flow_colour, heat


def colour_of(x, y, largest=1.0):
    return flow_colour(np.full((2, 3, 2), (x, y), np.float32), largest)[0, 0].tolist()


# The wheel's colours at 0, 13.75, 27.5 and 41.25 of 55 places, and at its corners.
@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ((1, 0), (255, 0, 0)),
        ((0, 1), (255, 255 * 13.75 / 15, 0)),
        ((-1, 0), (0, 255 * (1 - 2.5 / 11), 255)),
        ((0, -1), (255 * 5.25 / 13, 0, 255)),
        (15, (255, 255, 0)),
        (21, (0, 255, 0)),
        (25, (0, 255, 255)),
        (36, (0, 0, 255)),
        (49, (255, 0, 255)),
    ],
)
def test_directions_have_the_colours_of_the_wheel(direction, expected):
    if isinstance(direction, int):
        angle = 2 * np.pi * direction / 55
        direction = (0.999999 * np.cos(angle), 0.999999 * np.sin(angle))
    np.testing.assert_allclose(colour_of(*direction), expected, atol=1)


def test_length_is_saturation_on_white_up_to_the_largest_and_darker_beyond():
    assert colour_of(0, 0, 4) == [255, 255, 255]
    np.testing.assert_allclose(colour_of(1, 0, 4), (255, 191, 191), atol=1)
    assert colour_of(4, 0, 4) == [255, 0, 0]
    np.testing.assert_allclose(colour_of(40, 0, 4), (191, 0, 0), atol=1)
    assert flow_colour(np.zeros((2, 3, 2), np.float16), 1).dtype == np.uint8


def test_the_wheel_has_no_seam():
    angles = np.linspace(0, 2 * np.pi, 2000)
    around = np.stack([np.cos(angles), np.sin(angles)], -1)[None]
    colours = flow_colour(around, 1.001)[0].astype(int)
    assert np.abs(np.diff(colours, axis=0)).max() <= 6
    np.testing.assert_allclose(colours[0], colours[-1], atol=2)


def test_attention_shines_where_it_is_and_leaves_the_rest():
    frame = np.random.default_rng(0).integers(0, 100, (40, 60, 3), np.uint8)
    attention = np.zeros((4, 6))
    attention[1, 4] = 0.5
    seen = heat(frame, attention)
    assert seen.shape == frame.shape
    assert seen.dtype == np.uint8
    # The centre of cell (1, 4) is at row 15, column 45; cells that do not touch it see nothing.
    brightest = np.unravel_index(seen.sum(-1, dtype=int).argmax(), frame.shape[:2])
    np.testing.assert_allclose(brightest, (14.5, 44.5), atol=3)
    np.testing.assert_array_equal(seen[:, :35], frame[:, :35])
    np.testing.assert_array_equal(seen[25:], frame[25:])
    np.testing.assert_array_equal(heat(frame, 7 * attention), seen)


def test_attention_of_nothing_leaves_the_frame():
    frame = np.full((8, 8, 3), 77, np.uint8)
    np.testing.assert_array_equal(heat(frame, np.zeros((2, 2))), frame)
