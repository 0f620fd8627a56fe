"""Clips held out: whole groups of every class, always the same, never the test part."""

import numpy as np
import pytest

from stpyramid_jax.input.tfrecord import Video
from stpyramid_jax.training.validation import hold_out


def videos_of(*rows):
    """Videos of (label, group), two clips each."""
    return [
        Video(f"v{label}_{group}_{clip}", label, group, 9, 8, 0, {"split1": "train"})
        for label, group in rows
        for clip in range(2)
    ]


def groups(videos, numbers):
    return {(videos[n].label, videos[n].group) for n in numbers}


def test_a_share_of_the_groups_of_each_class_is_held_out_whole():
    videos = videos_of(*((label, f"c{label}_g{g}") for label in range(3) for g in range(10)))
    training, held = hold_out(videos, np.arange(60), 0.2)
    assert sorted([*training, *held]) == list(range(60))
    assert not groups(videos, training) & groups(videos, held)
    assert [sum(videos[n].label == label for n in held) for label in range(3)] == [4, 4, 4]


def test_the_choice_hangs_on_names_alone():
    videos = videos_of(*((0, f"g{g}") for g in range(10)))
    numbers = np.arange(20)
    _, held = hold_out(videos, numbers, 0.3)
    _, of_fewer = hold_out(videos, numbers[:14], 0.3)
    assert set(groups(videos, of_fewer)) <= set(groups(videos, numbers[:14]))
    turned = videos[::-1]
    _, again = hold_out(turned, numbers, 0.3)
    assert groups(videos, held) == groups(turned, again)
    more = hold_out(videos, numbers, 0.6)[1]
    assert groups(videos, held) < groups(videos, more)


def test_test_clips_are_never_touched():
    videos = videos_of((0, "a"), (0, "b"), (0, "c"))
    training, held = hold_out(videos, np.array([0, 1, 4, 5]), 0.5)
    assert not {2, 3} & {*training, *held}


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_there_is_always_a_group_on_each_side(share):
    videos = videos_of((0, "a"), (0, "b"), (1, "c"), (1, "d"))
    training, held = hold_out(videos, np.arange(8), share)
    for part in (training, held):
        assert {videos[n].label for n in part} == {0, 1}


def test_a_group_that_classes_share_is_held_out_of_all():
    videos = videos_of((0, "a"), (0, "b"), (0, "x"), (1, "x"), (1, "c"), (1, "d"))
    for share in (0.3, 0.6):
        training, held = hold_out(videos, np.arange(12), share)
        assert not {g for _, g in groups(videos, training)} & {g for _, g in groups(videos, held)}


def test_nothing_is_held_out_unless_asked():
    training, held = hold_out(videos_of((0, "a")), np.arange(2), 0.0)
    assert training.tolist() == [0, 1]
    assert held.tolist() == []


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(ValueError, match=r"1 classes have one group .* that of v1_c_0"):
        hold_out(videos_of((0, "a"), (0, "b"), (1, "c")), np.arange(6), 0.5)
    # d of class 0 is held out, b of class 1, and so nothing is left of class 0.
    with pytest.raises(ValueError, match=r"leave no clip to train on of the class of v0_d_0"):
        hold_out(videos_of((0, "d"), (0, "b"), (1, "b"), (1, "a")), np.arange(8), 0.5)
