"""What frame and which fields: always inside the clip, evenly or uniformly, as the slides say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpyramid_jax.input import sampling

snippets = st.integers(1, 5)
lengths = st.integers(1, 12)
taus = st.integers(1, 12)
clips = st.integers(1, 80)


def check(sample, num_fields, snippets, length):
    """What every sample must keep, long clip or short."""
    indices = sampling.numbers(sample, num_fields, length, ("flow",))["flow"]
    assert indices.shape == (snippets, length)
    assert indices.min() >= 0
    assert indices.max() < num_fields
    assert 0 <= sample.t <= num_fields  # frames 0..num_fields
    starts = np.array(sample.starts)
    assert (np.diff(starts) == sample.tau).all()
    window = sampling.window_size(snippets, length, sample.tau)
    if window <= num_fields:
        np.testing.assert_array_equal(indices, starts[:, None] + np.arange(length))
        assert abs(2 * sample.t - (2 * starts[0] + window)) <= 1  # the middle of W + 1 frames
    else:
        # The clip's middle is under the window's, and both ends repeat.
        assert abs((2 * starts[0] + window) - num_fields) <= 1
        assert abs(2 * sample.t - num_fields) <= 2


@given(st.integers(0, 2**32), clips, snippets, lengths, taus, taus)
def test_training_samples_lie_inside(seed, num_fields, snippets, length, tau1, tau2):
    low, high = sorted((tau1, tau2))
    rng = np.random.default_rng(seed)
    sample = sampling.train_sample(rng, num_fields, snippets, length, (low, high))
    check(sample, num_fields, snippets, length)
    assert sampling.fit_tau(low, num_fields, snippets, length) <= sample.tau <= high


@given(clips, st.integers(1, 30), snippets, lengths, taus)
def test_testing_samples_lie_inside_and_spread_evenly(num_fields, n, snippets, length, tau):
    samples = sampling.test_samples(num_fields, n, snippets, length, tau)
    assert len(samples) == n
    for sample in samples:
        check(sample, num_fields, snippets, length)
    firsts = np.array([sample.starts[0] for sample in samples])
    tau = samples[0].tau
    room = num_fields - sampling.window_size(snippets, length, tau)
    if n == 1 or room < 0:
        assert np.ptp(firsts) == 0
        assert abs(2 * firsts[0] - room) <= 1
        return
    grids = [g for g in range(1, tau + 1) if tau % g == 0 and g * (n - 1) <= room]
    grid = max(grids, default=1) if snippets > 1 else 1
    assert (np.diff(firsts) % grid == 0).all()
    assert 0 <= firsts[0] < grid
    assert 0 <= room - firsts[-1] < grid
    assert abs(firsts[0] - (room - firsts[-1])) <= 1  # in the middle of the clip
    assert np.ptp(np.diff(firsts)) <= grid  # even but for the grid


def test_windows_share_snippets():
    """25 windows over 170 fields start 6 fields apart or 12: of 75 snippets 27 are left."""
    starts = [s.starts for s in sampling.test_samples(170, 25, 3, 10, 6)]
    assert set(np.diff([first for first, *_ in starts]).tolist()) == {6}
    assert len({start for window in starts for start in window}) == 27


@given(clips, snippets, lengths, taus)
def test_tau_is_lowered_just_as_far_as_needed(num_fields, snippets, length, tau):
    fitting = [
        k for k in range(1, tau + 1) if sampling.window_size(snippets, length, k) <= num_fields
    ]
    expected = tau if snippets == 1 else max(fitting, default=1)
    assert sampling.fit_tau(tau, num_fields, snippets, length) == expected
    assert sampling.fit_tau(tau, num_fields + 1, snippets, length) >= expected
    assert sampling.fit_tau(tau + 1, num_fields, snippets, length) >= expected


def test_windows_of_the_slides():
    # T = 3, L = 10, tau 1..10: 12 to 30 fields.
    assert sampling.window_size(3, 10, 1) == 12
    assert sampling.window_size(3, 10, 10) == 30
    assert sampling.window_size(1, 10, 7) == 10


def test_training_is_uniform_over_tau_and_place():
    rng = np.random.default_rng(0)
    draws = 30_000
    samples = [sampling.train_sample(rng, 40, 3, 10, (1, 10)) for _ in range(draws)]
    taus, counts = np.unique([sample.tau for sample in samples], return_counts=True)
    assert taus.tolist() == list(range(1, 11))
    assert np.abs(counts - draws / 10).max() < 5 * np.sqrt(draws / 10)
    starts = [sample.starts[0] for sample in samples if sample.tau == 5]
    places, counts = np.unique(starts, return_counts=True)
    assert places.tolist() == list(range(21))  # 40 fields, a window of 20
    assert np.abs(counts - len(starts) / 21).max() < 5 * np.sqrt(len(starts) / 21)


def test_one_snippet_is_consecutive_fields_around_the_frame():
    (sample,) = sampling.test_samples(30, 1, 1, 10, 5)
    assert sample == sampling.Sample(t=15, starts=(10,), tau=5)
    chosen = sampling.numbers(sample, 30, 10, ("rgb", "flow", "frames"))
    assert chosen["rgb"] == 15
    assert chosen["flow"].tolist() == [list(range(10, 20))]
    assert chosen["frames"].tolist() == [list(range(10, 21))]


def test_positions_of_a_known_clip():
    # 100 fields, window (3 - 1) 6 + 10 = 22: 25 starts over 0..78, 3 or 6 apart.
    samples = sampling.test_samples(100, 25, 3, 10, 6)
    assert [sample.starts[0] for sample in samples[:5]] == [0, 3, 6, 9, 12]
    assert samples[-1] == sampling.Sample(t=89, starts=(78, 84, 90), tau=6)
    # One snippet shares with no other: 90 fields of room, as Temporal Segment Networks have it.
    samples = sampling.test_samples(100, 25, 1, 10, 6)
    assert [sample.starts[0] for sample in samples[:5]] == [0, 3, 7, 11, 15]


def test_a_clip_shorter_than_a_snippet_repeats_its_ends():
    (sample,) = sampling.test_samples(5, 1, 1, 10, 1)
    chosen = sampling.numbers(sample, 5, 10, ("flow", "frames"))
    assert chosen["flow"].tolist() == [[0, 0, 0, 0, 1, 2, 3, 4, 4, 4]]
    # Fields repeat, frames too: their differences are five, and none beyond the ends.
    assert chosen["frames"].tolist() == [[0, 0, 0, 0, 1, 2, 3, 4, 5, 5, 5]]
    assert sample.t == 2


@given(st.integers(0, 2**32), clips, snippets, lengths, taus)
def test_differences_lie_where_fields_do_and_stand_still_beyond_the_clip(
    seed, num_fields, snippets, length, tau
):
    rng = np.random.default_rng(seed)
    sample = sampling.train_sample(rng, num_fields, snippets, length, (1, tau))
    chosen = sampling.numbers(sample, num_fields, length, ("flow", "frames"))
    fields, before, after = chosen["flow"], chosen["frames"][:, :-1], chosen["frames"][:, 1:]
    asked = np.array(sample.starts)[:, None] + np.arange(length)
    inside = (asked >= 0) & (asked < num_fields)
    np.testing.assert_array_equal(before[inside], fields[inside])
    np.testing.assert_array_equal(after - before, inside)
    assert chosen["frames"].min() >= 0
    assert chosen["frames"].max() <= num_fields


def test_a_clip_without_motion_is_refused():
    with pytest.raises(ValueError, match="at least 2 frames"):
        sampling.test_samples(0, 1, 3, 10, 1)
    with pytest.raises(ValueError, match="at least 2 frames"):
        sampling.train_sample(np.random.default_rng(0), 0, 3, 10, (1, 10))
