"""Views are TSN's boxes; mirroring turns horizontal motion round and nothing else."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpyramid_jax.input import augment
from stpyramid_jax.input.augment import View

SCALES = (1.0, 0.875, 0.75, 0.66)


def view_frame(frame, view, crop):
    out = np.empty((crop, crop, 3), np.uint8)
    augment.view_frame(frame, view, out)
    return out


def view_field(field, view, crop):
    out = np.empty((2, crop, crop), np.uint8)
    augment.view_field(field, view, out)
    return out


sizes = st.tuples(st.integers(8, 300), st.integers(8, 300))


def ramps(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y]).astype(np.uint8)


@given(st.integers(0, 2**32), sizes, st.booleans())
def test_training_boxes_lie_inside(seed, size, flip):
    view = augment.train_view(np.random.default_rng(seed), size, SCALES, flip)
    assert 0 <= view.y <= view.y + view.height <= size[0]
    assert 0 <= view.x <= view.x + view.width <= size[1]
    assert flip or not view.flip


def test_training_boxes_are_those_of_tsn():
    rng = np.random.default_rng(0)
    views = [augment.train_view(rng, (256, 340), SCALES, True) for _ in range(10_000)]
    sides = Counter((view.height, view.width) for view in views)
    steps = (256, 224, 192, 168)
    assert set(sides) == {
        (steps[i], steps[j]) for i in range(4) for j in range(4) if abs(i - j) <= 1
    }
    assert max(sides.values()) < 1.25 * min(sides.values())  # 1000 of each: 6 sigma is 18 %
    places = {(view.y, view.x) for view in views if (view.height, view.width) == (168, 168)}
    quarters = {(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (0, 2), (4, 2), (2, 0), (2, 4)}
    quarters |= {(1, 1), (1, 3), (3, 1), (3, 3)}
    assert places == {((256 - 168) * i // 4, (340 - 168) * j // 4) for i, j in quarters}
    assert 0.47 < np.mean([view.flip for view in views]) < 0.53


def test_testing_boxes_are_those_of_tsn():
    # 224 out of 340 x 256: centre and four corners, then their mirrors.
    places = [(16, 58), (0, 0), (0, 116), (32, 0), (32, 116)]
    views = augment.test_views((256, 340), 0.875, 10)
    assert views == [View(*place, 224, 224, flip) for flip in (False, True) for place in places]
    assert augment.test_views((256, 340), 0.875, 5) == views[:5]
    assert augment.test_views((256, 340), 0.875, 1) == views[:1]
    with pytest.raises(ValueError, match="crops=4: choose 1"):
        augment.test_views((256, 340), 0.875, 4)


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_three_boxes_cover_the_frame_along_its_long_side(scale):
    boxes = [(0, 42), (0, 0), (0, 84)]
    views = augment.test_views((256, 340), scale, 3)
    assert views == [View(y, x, 256, 256, False) for y, x in boxes]
    upright = augment.test_views((340, 256), scale, 3)
    assert upright == [View(x, y, 256, 256, False) for y, x in boxes]


def test_a_box_of_the_crop_s_size_is_only_cut_out():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    view = View(3, 7, 24, 24, False)
    np.testing.assert_array_equal(view_frame(image, view, 24), image[3:27, 7:31])
    mirrored = view_frame(image, View(3, 7, 24, 24, True), 24)
    np.testing.assert_array_equal(mirrored, image[3:27, 30:6:-1])


def test_resizing_is_bilinear_between_pixel_centres():
    # OpenCV's bytes are within one of the real value; corners aligned would be off by 1.4.
    view = View(10, 20, 30, 45, False)
    x, y = view_field(ramps(60, 80), view, 12).astype(float)
    centres = np.arange(12) + 0.5
    np.testing.assert_allclose(x[0], 20 + centres * 45 / 12 - 0.5, atol=1)
    np.testing.assert_allclose(y[:, 0], 10 + centres * 30 / 12 - 0.5, atol=1)


@given(st.integers(0, 2**32), st.integers(4, 40))
def test_mirroring_negates_x_flow_only(seed, crop):
    rng = np.random.default_rng(seed)
    field = rng.integers(0, 256, (2, 30, 36), np.uint8)
    plain = view_field(field, View(2, 5, 20, 25, False), crop)
    mirrored = view_field(field, View(2, 5, 20, 25, True), crop)
    np.testing.assert_array_equal(mirrored[0], 255 - plain[0, :, ::-1])
    np.testing.assert_array_equal(mirrored[1], plain[1, :, ::-1])


def test_the_source_is_left_as_it_was():
    field = ramps(30, 40)
    before = field.copy()
    view_field(field, View(0, 0, 30, 40, True), 30)
    view_field(field, View(0, 0, 30, 30, True), 30)  # which nothing is resized for
    np.testing.assert_array_equal(field, before)


@given(st.integers(1, 4), st.integers(1, 12), st.integers(0, 2**32))
def test_channels_are_x1_y1_x2_y2(snippets, length, seed):
    rng = np.random.default_rng(seed)
    fields = rng.integers(0, 256, (6, 2, 5, 7), np.uint8)
    indices = rng.integers(0, 6, (snippets, length))
    if length <= 6:
        indices[0] = np.arange(6 - length, 6)  # a run, as most are
    stacked = np.zeros((snippets, 5, 7, 2 * length), np.uint8)
    augment.stack_snippets(fields, indices, stacked)
    for (t, k), field in np.ndenumerate(indices):
        np.testing.assert_array_equal(stacked[t, :, :, 2 * k], fields[field, 0])
        np.testing.assert_array_equal(stacked[t, :, :, 2 * k + 1], fields[field, 1])
