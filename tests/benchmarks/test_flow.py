"""The benchmark of flow: its pairs move as it says, and all methods answer in one convention."""

import json

import cv2
import numpy as np
import pytest

from tests.conftest import load


@pytest.fixture(scope="module")
def flow():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XLA_FLAGS", "NPROC"):  # which the program sets for itself
            patch.setenv(name, "")
        load("benchmarks/comparison.py")
        return load("benchmarks/flow.py")


@pytest.fixture(scope="module")
def scene(flow):
    return flow.texture(0.0)


@pytest.mark.parametrize(
    "name", ["translation 6.8 px", "rotation 3 degrees", "smooth up to 5.7 px"]
)
def test_the_first_frame_is_the_second_where_the_motion_leads(flow, scene, name):
    """By another interpolation, which is good to a grey level or two."""
    motion = flow.motions()[name]
    rendered, interpolated = flow.texture(motion), flow.moved(scene, motion)
    inner = np.s_[flow.EDGE : -flow.EDGE, flow.EDGE : -flow.EDGE]
    difference = np.abs(rendered.astype(float) - interpolated)[inner].mean()
    assert difference < 1 < np.abs(rendered.astype(float) - scene)[inner].mean() / 5


def test_smooth_motion_hides_nothing_and_is_as_long_as_its_name_says(flow):
    motion = flow.motions()[flow.SMOOTH]
    assert np.linalg.norm(motion, axis=-1).max() == pytest.approx(5.7, abs=0.05)
    steps = [np.linalg.norm(np.diff(motion, axis=axis), axis=-1).max() for axis in (0, 1)]
    assert max(steps) < 0.2  # pixels per pixel; from 1 on places could change their order


def test_the_error_is_the_distance_inside(flow):
    truth = np.zeros((flow.HEIGHT, flow.WIDTH, 2))
    wrong = truth + np.array([3.0, 4.0])
    wrong[: flow.EDGE] = 99
    assert flow.error(wrong, truth) == 5


def test_every_peer_finds_the_motion_and_not_its_reverse(flow, scene):
    """On a part of the pair, for speed; scikit-image where it is installed."""
    motion = np.broadcast_to([2.0, -1.0], (flow.HEIGHT, flow.WIDTH, 2))
    part = np.s_[60:140, 80:180]
    first, second = (image[part].copy() for image in (flow.texture(motion), scene))
    peers = flow.peers(quick=False)
    assert len(peers) == len(flow.peers(quick=True)) + ("scikit-image" in flow.packages(False))
    for name, method in peers.items():
        found = method(first, second)
        assert found.shape == (80, 100, 2), name
        middle = np.median(found[20:-20, 20:-20], axis=(0, 1))
        assert middle == pytest.approx([2, -1], abs=0.3), name


def test_settings_reach_the_solver(flow, scene, monkeypatch):
    made = []
    create = cv2.optflow.DualTVL1OpticalFlow_create
    monkeypatch.setattr(
        cv2.optflow, "DualTVL1OpticalFlow_create", lambda: made.append(create()) or made[-1]
    )
    flow.dual_tvl1(ScaleStep=0.5, WarpingsNumber=3)
    assert (made[0].getScaleStep(), made[0].getWarpingsNumber()) == (0.5, 3)


def test_without_real_clips_the_rendered_ones_are_left(flow, monkeypatch, capsys):
    monkeypatch.setenv("STPYRAMID_REAL", "/nowhere")
    monkeypatch.setattr(flow, "texture", lambda shift: None)
    cases = [case for case, *_ in flow.pairs(quick=False)]
    assert cases == [f"rendered, {name}" for name in flow.motions()]
    assert capsys.readouterr().err.count("\n") == 1
    assert [case for case, *_ in flow.pairs(quick=True)] == [cases[0], cases[-1]]


def test_real_frames_follow_the_rendered_ones(flow, real, monkeypatch):
    monkeypatch.setenv("STPYRAMID_REAL", str(real))
    monkeypatch.setattr(flow, "texture", lambda shift: None)
    *rendered, last = flow.pairs(quick=False)
    assert len(rendered) > len(flow.motions())
    case, first, second, motion = last
    assert case.endswith(flow.SMOOTH)
    assert (first.shape, second.shape) == ((flow.HEIGHT, flow.WIDTH),) * 2
    assert np.array_equal(first, flow.moved(second, motion))


@pytest.mark.slow
def test_the_flow_is_compared_and_written(flow, tmp_path, run):
    """By the command of its docstring, which test_docs.py leaves out."""
    assert "python benchmarks/flow.py --quick --json=flow.json\n" in flow.__doc__
    path = tmp_path / "flow.json"
    run("benchmarks/flow.py", "--quick", "--repetitions=1", f"--json={path}")
    rows = json.loads(path.read_text())["rows"]
    assert {row["unit"] for row in rows} == {"px", "s"}
    assert len({(row["case"], row["peer"]) for row in rows}) == len(rows) == 2 * 2 * 5
    for row in rows:
        assert row["ratio"] == pytest.approx(row["theirs"] / row["ours"])
    errors = [row for row in rows if row["unit"] == "px"]
    assert all(row["ours"] < 0.03 for row in errors)
    assert all(row["ratio"] > 1 for row in errors if "DualTVL1" in row["peer"])
