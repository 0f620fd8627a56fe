"""Views in parts: each once, with the snippets they are made of, and images decoded once."""

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpyramid_jax.input import sampling
from stpyramid_jax.input.sharing import Once, Packing

clips = st.lists(st.integers(5, 60), min_size=1, max_size=4)


def windows(fields, positions=6, snippets=3, tau=4):
    return [
        [s.starts for s in sampling.test_samples(count, positions, snippets, 4, tau)]
        for count in fields
    ]


@settings(deadline=None, max_examples=50)
@given(clips, st.integers(1, 3), st.integers(1, 20), st.integers(1, 3), st.integers(0, 30))
def test_parts_hold_every_view_once_with_its_own_snippets(fields, crops, views, t, room):
    starts = windows(fields, snippets=t)
    packing = Packing(starts, crops, views, room or None)
    if room:
        assert packing.snippets == max(room, t)
    seen = []
    for number in range(len(packing)):
        part, held = packing.part(number), []
        assert 0 < len(part) <= views
        for view in part:
            assert view.first == len(held)
            held += [(view.clip, view.crop, start) for start in view.new]
            chosen = [held[place] for place in view.snippets]
            assert chosen == [
                (view.clip, view.crop, start) for start in starts[view.clip][view.position]
            ]
            seen.append((view.clip, view.crop, view.position))
        assert len(set(held)) == len(held) <= packing.snippets
    assert seen == list(itertools.product(range(len(fields)), range(crops), range(6)))
    assert packing.part(len(packing)) == []
    for parts in ([], range(len(packing)), range(0, len(packing), 2)):
        found = [view.clip for number in parts for view in packing.part(number)]
        expected = [found.count(clip) for clip in range(len(fields))]
        assert packing.uses(parts).tolist() == expected


def test_neighbours_share_snippets():
    """Eight windows that start 4 apart, tau 4: ten snippets in place of 24."""
    starts = windows([40] * 5, positions=8)
    assert len({start for window in starts[0] for start in window}) == 10
    packing = Packing(starts, 2, 16)
    assert packing.snippets == 20
    assert [len(packing.part(k)) for k in range(len(packing))] == [16] * 5


@pytest.mark.parametrize("views", [1, 2, 3, 7, 16, 40])
@pytest.mark.parametrize("fields", [[40] * 6, [200] * 6, [12, 300, 45, 60, 30, 14]])
def test_sharing_never_costs_more_images_than_it_saves(fields, views):
    """Beside parts that share nothing, filled up as they are too."""
    packing = Packing(windows(fields, positions=8), 1, views)
    assert len(packing) * (packing.snippets + views) <= -(-48 // views) * views * 4


def test_without_motion_there_are_no_snippets():
    packing = Packing([[()] * 5] * 3, 1, 4)
    assert packing.snippets == 0
    assert [len(packing.part(k)) for k in range(len(packing))] == [4, 4, 4, 3]


class Slow:
    """A source that lets readers wait until all of them are there, and counts what is read."""

    directory, families, videos = None, ("rgb", "flow"), ()

    def __init__(self, readers):
        self.reads, self.barrier = [], threading.Barrier(readers)

    def rgb(self, video, frame):
        self.reads.append(("rgb", video, frame))
        if frame == 13:
            raise OSError("a cable fell out")
        return np.full((2, 2, 3), frame)

    def flow(self, video, start, length, family="flow"):
        for number in range(start, start + length):
            self.reads.append((family, video, number))
            yield np.full((2, 2, 2), number)


def test_an_image_is_read_once_by_whichever_thread():
    source = Slow(8)
    once, found = Once(source, {0: 8}), {}

    def read(k):
        with once.clip(0):
            source.barrier.wait(20)
            fields = once.flow(0, 3 * k, 10)
            found[k] = [int(field[0, 0, 0]) for field in fields], once.rgb(0, 4).max()

    threads = [threading.Thread(target=read, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == {k: (list(range(3 * k, 3 * k + 10)), 4) for k in range(8)}
    assert sorted(source.reads) == [("flow", 0, k) for k in range(31)] + [("rgb", 0, 4)]


def test_a_clip_is_held_until_it_was_used_as_often_as_was_said():
    source = Slow(1)
    once = Once(source, {0: 3, 1: 2})
    for video in (0, 1, 0, 1, 0):
        with once.clip(video):
            once.rgb(video, 2)
    assert source.reads == [("rgb", 0, 2), ("rgb", 1, 2)]
    assert not once._images


def test_an_image_that_cannot_be_read_fails_for_all_that_want_it():
    once = Once(Slow(1), {0: 1})
    with once.clip(0):
        for _ in range(2):
            with pytest.raises(OSError, match="a cable fell out"):
                once.rgb(0, 13)
        assert once.rgb(0, 12).max() == 12
