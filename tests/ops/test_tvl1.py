"""tvl1 against known warps, OpenCV's DualTVL1, and the symmetries an optical flow must have."""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stpyramid_jax.ops.tvl1 import border, divergence, gradient, interior, neighbour, tvl1

HEIGHT, WIDTH = 112, 144
EDGE = 16  # pixels left out of the error: the warps have no source there
flow_of = jax.jit(tvl1)
quick_flow_of = jax.jit(functools.partial(tvl1, scales=2, warps=1))  # compiles in less time


def affine(matrix, shift):
    """Displacement field of x -> matrix (x - centre) + centre + shift."""
    x, y = np.meshgrid(np.arange(WIDTH) - (WIDTH - 1) / 2, np.arange(HEIGHT) - (HEIGHT - 1) / 2)
    moved = np.einsum("kc,hwc->hwk", np.array(matrix) - np.eye(2), np.stack([x, y], -1))
    return moved + np.array(shift)


cos, sin = np.cos(np.deg2rad(3)), np.sin(np.deg2rad(3))
MOTIONS = {
    "subpixel": affine(np.eye(2), (0.4, -0.3)),
    "translation": affine(np.eye(2), (6.3, -2.6)),
    "rotation": affine([[cos, -sin], [sin, cos]], (0, 0)),
    "zoom": affine(1.04 * np.eye(2), (0, 0)),
}


def texture(x, y, seed):
    """60 plane waves of up to 0.9 rad/pixel: defined between pixels too, so warps are exact."""
    random = np.random.default_rng(seed)
    frequency = random.uniform(0.02, 0.9, 60)
    angle, phase = random.uniform(0, 2 * np.pi, (2, 60))
    amplitude = 1 / (frequency + 0.08)
    along = np.cos(angle) * x[..., None] + np.sin(angle) * y[..., None]
    waves = np.sin(frequency * along + phase) @ amplitude
    return np.clip(np.rint(127 + 45 * waves / np.sqrt((amplitude**2).sum() / 2)), 0, 255)


def pixels(field=0.0):
    x, y = np.meshgrid(np.arange(float(WIDTH)), np.arange(float(HEIGHT)))
    moved = np.stack([x, y], -1) + field
    return moved[..., 0], moved[..., 1]


def rendered_pair(field, seed=0):
    first, second = texture(*pixels(field), seed), texture(*pixels(), seed)
    return first.astype(np.uint8), second.astype(np.uint8)


def lanczos(image, x, y, lobes=4):
    """image(x, y) by Lanczos in full precision; cv2.remap would round x and y to 1/32 pixel."""
    total, weight = 0.0, 0.0
    for j in range(1 - lobes, lobes + 1):
        for i in range(1 - lobes, lobes + 1):
            column, row = np.floor(x).astype(int) + i, np.floor(y).astype(int) + j
            dx, dy = x - column, y - row
            tap = np.sinc(dx) * np.sinc(dx / lobes) * np.sinc(dy) * np.sinc(dy / lobes)
            total, weight = total + tap * image[row, column], weight + tap
    return total / weight


def real_pair(field, clip):
    """A window of a clip's first frame, and the same one warped from the whole frame."""
    ok, frame = cv2.VideoCapture(str(clip)).read()
    assert ok, clip
    grey = cv2.cvtColor(cv2.resize(frame, (340, 256)), cv2.COLOR_BGR2GRAY)
    first = lanczos(grey, *pixels(field + np.array([98.0, 72.0])))
    second = grey[72 : 72 + HEIGHT, 98 : 98 + WIDTH]
    return np.clip(np.rint(first), 0, 255).astype(np.uint8), second


def endpoint_error(flow, field):
    error = np.linalg.norm(np.asarray(flow) - field, axis=-1)
    return error[EDGE:-EDGE, EDGE:-EDGE].mean()


def errors_of_both(pairs, field):
    opencv = cv2.optflow.DualTVL1OpticalFlow_create()
    ours = np.mean([endpoint_error(flow_of(*pair), field) for pair in pairs])
    theirs = np.mean([endpoint_error(opencv.calc(*pair, None), field) for pair in pairs])
    return ours, theirs


@pytest.mark.parametrize("motion", MOTIONS)
def test_beats_opencv_on_rendered_texture(motion):
    field = MOTIONS[motion]
    ours, theirs = errors_of_both([rendered_pair(field, seed) for seed in (0, 1)], field)
    assert ours < 0.8 * theirs


@pytest.mark.parametrize("motion", MOTIONS)
def test_beats_opencv_on_warped_real_frames(motion, real):
    videos = real / "ucf10" / "videos"
    clips = [sorted((videos / name).glob("*.avi"))[0] for name in ("JumpRope", "PullUps", "Lunges")]
    field = MOTIONS[motion]
    ours, theirs = errors_of_both([real_pair(field, clip) for clip in clips], field)
    assert ours < 0.9 * theirs


@functools.cache
def still_and_shifted():
    return rendered_pair(np.array([1.5, 0.0]))


def test_flow_is_x_then_y_in_pixels():
    flow = np.asarray(flow_of(*still_and_shifted()))[EDGE:-EDGE, EDGE:-EDGE]
    np.testing.assert_allclose(flow[..., 0].mean(), 1.5, atol=0.05)
    np.testing.assert_allclose(flow[..., 1], 0.0, atol=0.2)
    assert abs(flow[..., 1].mean()) < 0.01


def test_equal_images_do_not_move():
    image, _ = still_and_shifted()
    np.testing.assert_allclose(flow_of(image, image), 0.0, atol=1e-4)


def test_constant_images_do_not_move():
    dark, bright = np.zeros((HEIGHT, WIDTH), np.uint8), np.full((HEIGHT, WIDTH), 255, np.uint8)
    np.testing.assert_allclose(flow_of(dark, bright), 0.0, atol=1e-3)


@pytest.mark.parametrize("shape", [(8, 8), (8, 61), (37, 9)])
def test_small_images_and_noise_stay_finite(shape):
    random = np.random.default_rng(0)
    first, second = random.integers(0, 256, (2, *shape)).astype(np.uint8)
    flow = np.asarray(flow_of(first, second))
    assert flow.shape == (*shape, 2)
    assert flow.dtype == np.float32
    assert np.isfinite(flow).all()


def test_pair_does_not_depend_on_its_batch():
    first, second = (image[:40, :48] for image in still_and_shifted())
    noise = np.random.default_rng(1).integers(0, 256, first.shape).astype(np.uint8)
    alone = quick_flow_of(np.stack([first, first]), np.stack([second, second]))
    beside = quick_flow_of(np.stack([first, noise]), np.stack([second, first]))
    np.testing.assert_array_equal(alone[0], beside[0])
    np.testing.assert_allclose(quick_flow_of(first, second), alone[0], atol=1e-3)


def test_leading_axes_are_kept():
    first, second = (image[:24, :96].reshape(24, 6, 16) for image in still_and_shifted())
    first, second = np.moveaxis(first, 1, 0), np.moveaxis(second, 1, 0)
    flat = quick_flow_of(first, second)
    folded = quick_flow_of(first.reshape(2, 3, 24, 16), second.reshape(2, 3, 24, 16))
    assert folded.shape == (2, 3, 24, 16, 2)
    np.testing.assert_array_equal(folded.reshape(flat.shape), flat)
    assert quick_flow_of(first[:0], second[:0]).shape == (0, 24, 16, 2)


def test_dtype_does_not_matter():
    first, second = (image[:40, :48] for image in still_and_shifted())
    floats = quick_flow_of(first.astype(np.float32), second.astype(np.float32))
    np.testing.assert_array_equal(quick_flow_of(first, second), floats)


def test_mirrored_pair_has_mirrored_flow():
    first, second = rendered_pair(MOTIONS["rotation"])
    flow = np.asarray(flow_of(first, second))
    mirrored = np.asarray(flow_of(first[:, ::-1], second[:, ::-1]))[:, ::-1] * np.array([-1, 1])
    np.testing.assert_allclose(
        mirrored[EDGE:-EDGE, EDGE:-EDGE], flow[EDGE:-EDGE, EDGE:-EDGE], atol=0.05
    )


def test_divergence_is_minus_the_adjoint_of_gradient():
    height, width = 7, 11
    random = np.random.default_rng(2)
    inside = interior(height, width)
    u, px, py = jnp.asarray(random.normal(size=(3, 1, height * width)), jnp.float32)
    px, py = px * inside[:1], py * inside[1:]
    dx, dy = gradient(border(u, width), inside, width)
    flux = divergence(border(px, width), border(py, width), width)
    np.testing.assert_allclose((dx * px + dy * py).sum(), -(u * flux).sum(), rtol=1e-4)
    plane = np.asarray(u).reshape(height, width)
    np.testing.assert_allclose(dx.reshape(height, width)[:, :-1], np.diff(plane, axis=1), rtol=1e-6)
    np.testing.assert_allclose(dy.reshape(height, width)[:-1], np.diff(plane, axis=0), rtol=1e-6)
    np.testing.assert_array_equal(neighbour(border(u, width), 0, width), u)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (jnp.zeros((16, 16)), jnp.zeros((16, 17)), r"\(16, 16\) and \(16, 17\)"),
        (jnp.zeros(16), jnp.zeros(16), "one shape"),
        (jnp.zeros((7, 16)), jnp.zeros((7, 16)), "at least 8"),
        (jnp.zeros((8, 8), jnp.complex64), jnp.zeros((8, 8)), "first must hold real grey values"),
    ],
)
def test_bad_images_are_refused(first, second, message):
    with pytest.raises(ValueError, match=message) as caught:
        tvl1(first, second)
    assert "\n" not in str(caught.value)
