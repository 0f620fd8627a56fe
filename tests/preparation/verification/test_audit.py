"""Records and their images: which are looked at, and what is wrong with them."""

import numpy as np
import pytest

from stpyramid_jax import records
from stpyramid_jax.preparation.verification.audit import EVERY, image_of
from stpyramid_jax.preparation.verification.contents import PreparedVideo
from stpyramid_jax.preparation.verification.inspection import inspect
from stpyramid_jax.preparation.writing import shards
from tests.preparation.verification.conftest import build, edit, field, jpeg


def test_statistics_of_known_fields(tmp_path):
    clips = {("a", "A"): [field(0, 0)] * 3 + [field(3, 4)] * 2 + [field(20, -20)] * 5}
    tally = inspect(build(tmp_path / "set", clips, ("rgb", "flow", "warped"))).tallies
    assert tally["flow"] == tally["warped"]
    assert tally["flow"].length == pytest.approx(2 * 5 + 5 * 20 * 2**0.5, rel=0.02)
    assert (tally["flow"].clipped, tally["flow"].static) == (5, 3)


def test_the_sample_is_the_first_video_and_every_16th_record(tmp_path):
    clips = {(f"{n:02}", "A"): [field(0, 0)] * 11 for n in range(33)}
    tally = inspect(build(tmp_path / "set", clips)).tallies
    counts = [12 * len(range(33)[share]) for share in shards.shard_shares(33)]
    assert tally["rgb"].records == sum(counts) == 396
    expected = sum(sum(k < 12 or k % EVERY == 0 for k in range(count)) for count in counts)
    assert tally["rgb"].decoded == expected == 16 * 12 + 16 + 1


@pytest.mark.parametrize(
    ("replacement", "expected"),
    [
        (
            ("v_Jump_g01", "v_Jump_g09"),
            "not {'frame': 0, 'label': 0, 'video': b'Jump/v_Jump_g09_c01'}",
        ),
        (
            ("avi,Jump,0", "avi,Run,1"),
            "not {'frame': 0, 'label': 1, 'video': b'Jump/v_Jump_g01_c01'}",
        ),
    ],
)
def test_records_of_another_list_are_named(copy, replacement, expected):
    """A list that agrees with itself: only the records tell."""
    edit(copy, replacement)
    problems = inspect(copy).problems
    assert len(problems) == 2 * (5 + 1)  # of each family five and a count
    name = "clips-rgb.tfrecord-00000-of-00003"
    assert problems[6].startswith(f"{name}: record 0 ('Jump/v_Jump_g0")
    assert ") at offset 0: is {" in problems[6]
    assert problems[6].endswith(expected)
    assert problems[11] == f"{name}: and 11 more damaged records"


def test_records_that_are_counted_wrongly_are_named(tmp_path):
    folder = build(tmp_path / "set", {("a", "A"): [field(0, 0)]}, first=1)
    problems = inspect(folder).problems
    assert len(problems) == 3
    for problem, number in zip(problems, (1, 1, 2), strict=True):
        assert f": is {{'frame': {number}, 'label': 0, 'video': b'a'}}, not {{" in problem


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"\n\x09\n\x07\n\x01x\x12\x02\x12\x00",  # a feature of floats, and none of them
        records.encode_example({"image": 1, "video": b"a", "frame": 0, "label": 0}),
        records.encode_example({"image": b"", "video": b"a", "frame": b"", "label": 0}),
        records.encode_example({"image": b"", "video": b"a", "frame": 0, "label": 0, "more": 0}),
    ],
)
def test_payloads_of_something_else_are_refused(payload):
    video = PreparedVideo("a", "a.avi", "A", 0, "a", ("train",), frames=2, fields=1, shard=0)
    with pytest.raises(ValueError, match=r"^here: "):
        image_of(payload, video, 0, "here")


def test_swapped_shards_are_named(copy):
    first, second = sorted(copy.glob("*-rgb.tfrecord-*"))[:2]
    first.rename(copy / "tmp")
    second.rename(first)
    (copy / "tmp").rename(second)
    problems = inspect(copy).problems
    for path in (first, second):
        assert any(problem.startswith(f"{path.name}: has ") for problem in problems)
    stranger = copy / "clips-rgb.tfrecord-00000-of-00002"
    stranger.write_bytes(b"")
    assert f"{stranger.name!r}: not of this data set" in inspect(copy).problems


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (b"", "no image"),
        (b"\xff\xd8 no JPEG", "no image"),
        (jpeg(np.zeros((48, 64, 3), np.uint8)), "an image of shape (48, 64, 3)"),
        (jpeg(np.zeros((48, 64), np.uint8)), "an image of shape (48, 64)"),
    ],
)
def test_images_of_something_else_are_named(tmp_path, image, found):
    folder = build(tmp_path / "set", {("a", "A"): [field(0, 0), image]})
    (problem,) = inspect(folder).problems
    place = "set-flow.tfrecord-00000-of-00001: record 1 ('a' 1) at offset "
    assert problem.startswith(place)
    assert problem.endswith(f": {found}, not one of (96, 64)")
