"""Camera motion on rendered scenes whose camera and actor are known, and on real clips."""

import hashlib
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpyramid_jax.preparation.sources import camera as module
from stpyramid_jax.preparation.sources.camera import (
    camera_motion,
    camera_parameters,
    stabilise,
    without_camera,
)
from stpyramid_jax.preparation.sources.decode import frames
from tests.conftest import ROOT

WIDTH, HEIGHT = 170, 128
CENTRE = np.array([WIDTH / 2 - 8, HEIGHT / 2 + 3])
PLACES = np.dstack(np.meshgrid(np.arange(float(WIDTH)), np.arange(float(HEIGHT))))


def camera(shift=(0.0, 0.0), degrees=0.0, zoom=1.0, tilt=(0.0, 0.0)):
    """Homography about the middle of the image."""
    cos, sin = zoom * np.cos(np.deg2rad(degrees)), zoom * np.sin(np.deg2rad(degrees))
    middle = np.array([[1, 0, WIDTH / 2], [0, 1, HEIGHT / 2], [0, 0, 1]])
    motion = np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]], [*tilt, 1]])
    return middle @ motion @ np.linalg.inv(middle)


CAMERAS = {
    "shake": camera((0.7, -0.5)),
    "pan": camera((4.3, 1.6)),
    "rotation": camera((1, 0.5), degrees=2),
    "zoom": camera((0.5, -1), zoom=1.03),
    "all": camera((-2, 1.5), degrees=-1.5, zoom=0.98, tilt=(1e-4, -8e-5)),
}


def moved(places, motion):
    return cv2.perspectiveTransform(np.asarray(places, np.float64), motion)


def texture(places, seed):
    """Forty plane waves at any places [..., 2], so that motion between pixels is exact."""
    random = np.random.default_rng(seed)
    frequency, angle = random.uniform(0.05, 0.8, 40), random.uniform(0, 2 * np.pi, 40)
    waves = np.stack([np.cos(angle), np.sin(angle)]) * frequency
    values = np.sin(places @ waves + random.uniform(0, 6, 40)) @ (1 / frequency)
    return 127 + 45 * values / np.sqrt((1 / frequency**2).sum() / 2)


def disc(area, centre):
    return np.linalg.norm(PLACES - centre, axis=-1) ** 2 < area * WIDTH * HEIGHT / np.pi


def scene(motion, area, own=(0.0, 0.0)):
    """Two frames, the actor's pixels, and the flow: the actor moves by `own` beside the camera."""
    there = moved(CENTRE[None, None], motion)[0, 0] + own
    actor, next_actor = disc(area, CENTRE), disc(area, there)
    first, second = texture(PLACES, 0), texture(moved(PLACES, np.linalg.inv(motion)), 0)
    first[actor] = texture(PLACES[actor] - CENTRE, 1)
    second[next_actor] = texture(PLACES[next_actor] - there, 1)
    flow = moved(PLACES, motion) - PLACES
    flow[actor] = there - CENTRE
    images = (np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in (first, second))
    return *images, actor, flow.astype(np.float32)


def dis(first, second):
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return solver.calc(first, second, None)


def inside(mask, margin=6):
    """Pixels farther than `margin` from the mask's edge and the image's."""
    square = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
    eroded = cv2.erode(np.uint8(mask), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return eroded.astype(bool)


def length(flow):
    return np.linalg.norm(flow, axis=-1)


@given(st.sampled_from(list(CAMERAS.values())), st.integers(0, 2**32 - 1))
def test_flow_seen_from_a_moving_camera_is_that_seen_at_rest(motion, seed):
    at_rest = np.random.default_rng(seed).uniform(-20, 20, (HEIGHT, WIDTH, 2))
    seen = moved(PLACES + at_rest, motion) - PLACES  # H(x + w) - x
    found = stabilise(seen.astype(np.float32), motion)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, at_rest, atol=1e-3)


@pytest.mark.parametrize("name", CAMERAS)
def test_it_is_the_flow_to_the_warped_second_frame(name):
    """What TSN computes by a second run of the flow."""
    motion = CAMERAS[name]
    first, second, _, _ = scene(motion, 0.15, own=(2, -1))
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(
        second, motion, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    again = dis(first, warped)
    found = stabilise(dis(first, second), motion)
    known = inside(np.ones((HEIGHT, WIDTH)), 14)
    assert np.median(length(found - again)[known]) < 0.1  # either is off by some 0.06 pixels


@pytest.mark.parametrize("area", [0.1, 0.3])
@pytest.mark.parametrize("name", CAMERAS)
def test_the_background_comes_to_rest_and_the_actor_moves_on(name, area):
    motion = CAMERAS[name]
    own = np.array([3.0, -2.0])
    first, second, actor, truth = scene(motion, area, own)
    before = dis(first, second)
    after = without_camera(first, before)
    background = inside(~actor)
    assert length(after)[background].mean() < 0.1 * length(before)[background].mean()
    expected = stabilise(truth, motion)
    assert length(after - expected)[inside(actor)].mean() < 0.2
    assert length(after)[inside(actor)].mean() > 3


@pytest.mark.parametrize("area", [0.0, 0.1, 0.3, 0.45])
def test_a_camera_at_rest_leaves_the_flow_as_it_is(area):
    first, second, _, _ = scene(np.eye(3), area, own=(2.5, 1.5))
    flow = dis(first, second)
    assert length(without_camera(first, flow) - flow).mean() < 0.04


def test_all_flow_of_a_scene_at_rest_is_the_cameras():
    motion = CAMERAS["all"]
    first, _, _, truth = scene(motion, 0.0)
    np.testing.assert_allclose(without_camera(first, truth), 0, atol=1e-3)


def test_an_actor_with_most_of_the_texture_is_not_the_background():
    """Of a wall with texture at its rim only, the rim is asked when the actor's votes are apart."""
    motion = CAMERAS["pan"]
    first, _, actor, truth = scene(motion, 0.35, own=(-4, 2))
    rim = ~inside(np.ones((HEIGHT, WIDTH)), 10)
    first[~actor & ~rim] = 127
    found = camera_motion(first, truth)
    assert np.abs(moved(PLACES, found) - moved(PLACES, motion))[~actor].max() < 0.3


def test_an_actor_before_an_empty_wall_is_not_the_background():
    first, _, actor, truth = scene(np.eye(3), 0.35, own=(3, 2))
    first[~actor] = 127
    assert np.array_equal(camera_motion(first, truth), np.eye(3))


FLAT = np.full((HEIGHT, WIDTH), 90, np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
PAN = np.full((HEIGHT, WIDTH, 2), 3, np.float32)
NOWHERE = {
    "no texture": (FLAT, PAN),
    "texture too weak to follow": (FLAT + (NOISE > 200), PAN),
    "no common motion": (NOISE, np.random.default_rng(1).normal(0, 8, PAN.shape).astype("f")),
    "everything leaves": (NOISE, PAN * 100),
    "not a number": (NOISE, PAN * np.nan),
    "a zoom as between shots": (NOISE, ((PLACES - CENTRE) * -0.6).astype(np.float32)),
    "a mirror": (NOISE, ((CENTRE - PLACES) * [2, 0]).astype(np.float32)),
    "too small for enough votes": (NOISE[:32, :40], PAN[:32, :40]),
    "smaller than a cell": (NOISE[:7, :7], PAN[:7, :7]),
}


@pytest.mark.parametrize(("first", "flow"), NOWHERE.values(), ids=NOWHERE)
def test_without_enough_agreement_the_flow_is_kept_exactly(first, flow):
    assert np.array_equal(camera_motion(first, flow), np.eye(3))
    np.testing.assert_array_equal(without_camera(first, flow), flow)


@pytest.mark.parametrize("seed", range(6))
def test_a_cut_has_no_camera_motion(seed):
    """What is computed between other scenes is smooth, and somewhere agrees with any motion."""
    first, second = (
        np.clip(texture(PLACES, number), 0, 255).astype(np.uint8) for number in (seed, seed + 20)
    )
    flow = dis(first, second)
    assert length(flow).mean() > 3
    assert np.array_equal(camera_motion(first, flow), np.eye(3))


def test_holes_in_the_flow_do_not_spoil_the_rest():
    first, _, _, truth = scene(CAMERAS["pan"], 0.0)
    truth[:40] = np.nan
    truth[40:50] = np.inf
    assert np.abs(camera_motion(first, truth) - CAMERAS["pan"]).max() < 1e-3


def test_one_motion_gives_the_same_bytes_in_any_order_on_any_number_of_threads():
    pairs = [scene(motion, 0.3, own=(3, -2)) for motion in CAMERAS.values()]
    noise = np.random.default_rng(0).normal(0, 0.3, (HEIGHT, WIDTH, 2)).astype(np.float32)

    def digest(pair):
        return hashlib.sha256(camera_motion(pair[0], pair[3] + noise).tobytes()).hexdigest()

    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        alone = [digest(pair) for pair in pairs]
        assert len(set(alone)) == len(pairs)
        cv2.setNumThreads(4)
        cv2.setRNGSeed(7)
        assert [digest(pair) for pair in reversed(pairs)] == alone[::-1]
    finally:
        cv2.setNumThreads(threads)


def test_parameters_are_all_numbers_of_the_module():
    """So that a preparation with others is told apart; they stay the same through a file."""
    numbers = {name.lower(): value for name, value in vars(module).items() if name.isupper()}
    parameters = camera_parameters()
    assert parameters == {**numbers, "tolerances": list(numbers["tolerances"])}
    assert json.loads(json.dumps(parameters)) == parameters


@pytest.mark.parametrize("threads", [1, 3])
def test_another_process_gives_the_same_bytes(threads, tmp_path):
    first, _, _, truth = scene(CAMERAS["all"], 0.3, own=(3, -2))
    flow = truth + np.random.default_rng(0).normal(0, 0.3, truth.shape).astype(np.float32)
    np.savez(tmp_path / "pair.npz", first=first, flow=flow)
    program = (
        "import sys, cv2, numpy as np; cv2.setNumThreads(int(sys.argv[1])); "
        "from stpyramid_jax.preparation.sources.camera import without_camera; "
        "sys.stdout.buffer.write(without_camera(**np.load(sys.argv[2])).tobytes())"
    )
    arguments = [sys.executable, "-c", program, str(threads), str(tmp_path / "pair.npz")]
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, check=True)
    assert result.stdout == without_camera(first, flow).tobytes()


@pytest.mark.parametrize(
    ("first", "flow"),
    [
        (NOISE, PAN[:, :-1]),
        (NOISE.T, PAN),
        (np.dstack([NOISE] * 3), PAN),
        (NOISE.astype(np.float32), PAN),
    ],
    ids=["narrower", "turned", "colour", "floats"],
)
def test_what_does_not_belong_together_is_refused(first, flow):
    with pytest.raises(ValueError, match=r"first must be uint8 \[h, w\] and flow \[h, w, 2\]"):
        without_camera(first, flow)


def real_pair(path, number):
    images = []
    for count, image in enumerate(frames(path, (340, 256))):
        if count >= number:
            images.append(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        if len(images) == 2:
            break
    return images


@pytest.mark.parametrize(
    ("clip", "number"),
    [
        ("BodyWeightSquats/v_BodyWeightSquats_g05_c02", 20),
        ("HandstandWalking/v_HandstandWalking_g04_c01", 5),
        ("PullUps/v_PullUps_g01_c04", 40),
    ],
)
def test_a_camera_held_by_hand_comes_to_rest(real, clip, number):
    first, second = real_pair(real / f"ucf10/videos/{clip}.avi", number)
    flow = dis(first, second)
    assert np.median(length(without_camera(first, flow))) < 0.5 * np.median(length(flow))


@pytest.mark.parametrize(
    ("clip", "number"),
    [
        ("JumpingJack/v_JumpingJack_g10_c03", 20),  # the actor fills a third of the image
        ("JumpRope/v_JumpRope_g14_c01", 40),  # before a white wall
    ],
)
def test_a_camera_on_a_tripod_stays_at_rest(real, clip, number):
    first, second = real_pair(real / f"ucf10/videos/{clip}.avi", number)
    flow = dis(first, second)
    assert length(flow).max() > 2
    assert length(without_camera(first, flow) - flow).mean() < 0.1
