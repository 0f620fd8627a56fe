import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpyramid_jax.preparation.sources import flow
from stpyramid_jax.preparation.sources.flow import BOUND, dequantise, flow_fields, quantise


def test_quantise_is_that_of_the_published_flow():
    # TSN: zero is 128, the bounds are the ends, everything beyond is clipped.
    values = np.array([0.0, -20, 20, -99, 99, np.inf], np.float32)
    assert quantise(values).tolist() == [128, 0, 255, 0, 255, 255]


@given(st.floats(-BOUND, BOUND, width=32))
def test_quantise_is_off_by_half_a_step_at_most(value):
    error = abs(float(dequantise(quantise(np.float32(value)))) - value)
    assert error <= BOUND / 255 + 1e-5


def greys(make, count):
    return [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in make.clip(0, count, 32, 32)]


@pytest.mark.parametrize("method", flow.METHODS)
def test_fields_are_the_motion_x_over_y(make, method):
    fields = np.stack([field for (field,) in flow_fields(greys(make, 4), method)])
    assert fields.shape == (3, 2, 32, 32)
    assert fields.dtype == np.uint8
    x, y = np.median(dequantise(fields[:, :, 8:-8, 8:-8]), axis=(0, 2, 3))
    assert (x, y) == pytest.approx((2, 1), abs=0.25)


@pytest.mark.parametrize("sizes", [(1, 1), (2, 4), (8, 32)], ids=str)
def test_a_pair_does_not_depend_on_the_others_of_its_batch(make, sizes, monkeypatch):
    """CPUs and accelerators take batches of their own: whole ones and others that are filled up."""
    frames = greys(make, 8)
    alone = [next(flow_fields(pair, "tvl1")) for pair in itertools.pairwise(frames)]
    monkeypatch.setattr(flow, "_batch_sizes", lambda: sizes)
    together = list(flow_fields(frames, "tvl1"))
    assert np.array_equal(together, alone)
    assert len(together) == 7


def test_warped_is_the_flow_without_the_camera(make):
    """The whole scene moves: that is the camera, and nothing is left of it."""
    scene = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in make.clip(0, 4, 120, 160)]
    families = list(flow_fields(scene, "dis", ("flow", "warped")))
    field, warped = (np.stack(fields) for fields in zip(*families, strict=True))
    assert np.array_equal(field, [field for (field,) in flow_fields(scene, "dis")])
    inside = np.s_[:, :, 16:-16, 16:-16]
    assert np.abs(dequantise(field[inside])).mean() > 1.2
    assert np.abs(dequantise(warped[inside])).mean() < 0.2


@pytest.mark.parametrize("method", ["tvl1", "dis"])
def test_a_long_video_takes_the_memory_of_a_short_one(make, method):
    frames = greys(make, 4)
    drawn = 0

    def endless():
        nonlocal drawn
        for frame in itertools.cycle(frames):
            drawn += 1
            yield frame

    taken = sum(1 for _ in itertools.islice(flow_fields(endless(), method), 40))
    assert taken == 40
    assert drawn <= 40 + 3


@pytest.mark.parametrize("method", flow.METHODS)
def test_one_frame_has_no_field(make, method):
    assert list(flow_fields(greys(make, 1), method)) == []
