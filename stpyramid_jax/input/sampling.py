"""Which frames and which flow fields of a clip make one input, for training and for testing.

One input is an RGB frame at time t and T snippets of L consecutive flow fields "at an interval of
tau around t", tau drawn from 1..10 in training (the authors' slides, "Multi-snippets fusion"), so
its window of `(T - 1) tau + L` fields lasts 12 to 30 fields for T = 3 and L = 10. Field k leads
from frame k to frame k + 1, so that a window of W fields spans W + 1 frames. Differences of frames
are sampled as fields are: the k-th is frame k + 1 less frame k.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64


@dataclass(frozen=True)
class Sample:
    """RGB frame `t` and the first field of each snippet, `tau` fields apart.

    A clip shorter than the window has starts outside the clip; `numbers` clamps them.
    """

    t: int
    starts: tuple[int, ...]
    tau: int


def window_size(snippets: int, length: int, tau: int) -> int:
    """Fields from the first of the first snippet to the last of the last: `(T - 1) tau + L`."""
    return (snippets - 1) * tau + length


def fit_tau(tau: int, num_fields: int, snippets: int, length: int) -> int:
    """The largest interval up to `tau` whose window fits in `num_fields`, but at least 1."""
    if snippets == 1:
        return tau
    return max(1, min(tau, (num_fields - length) // (snippets - 1)))


def train_sample(
    rng: np.random.Generator,
    num_fields: int,
    snippets: int,
    length: int,
    tau_range: tuple[int, int],
) -> Sample:
    """Draws tau uniformly from `tau_range` (ends included), then the window uniformly in the clip.

    A tau too large for the clip is lowered by `fit_tau`; a clip too short even for tau 1 has its
    middle under the middle of the window.

    Args:
      num_fields: flow fields of the clip, one less than its frames.
      snippets: T, fields per snippet: `length` = L.

    Raises:
      ValueError: a clip without any field.
    """
    tau = int(rng.integers(tau_range[0], tau_range[1] + 1))
    tau = fit_tau(tau, num_fields, snippets, length)
    room = num_fields - window_size(snippets, length, tau)
    start = int(rng.integers(0, room + 1)) if room >= 0 else room // 2
    return _sample(start, num_fields, snippets, length, tau)


def test_samples(
    num_fields: int, positions: int, snippets: int, length: int, tau: int
) -> list[Sample]:
    """Evenly spaced windows over a clip, on a grid on which they share snippets; one: the middle.

    Of F fields a window takes W = (T - 1) tau + L and leaves room R = F - W. The P windows start at

        o + g floor(i M / (P - 1))    i = 0 .. P - 1,   M = floor(R / g),   o = floor((R - g M) / 2)

    where the grid's spacing g is the largest divisor of tau up to R / (P - 1), at least 1. Snippets
    lie tau apart, so that those of one window are those of others: of 25 windows over a clip of
    UCF101, tau = 6, half as many are left. With g = 1 (T = 1, or a short clip) they
    reach both ends; Temporal Segment Networks round their step down and may stop short of the last.
    A clip shorter than that repeats positions. How the pyramid's authors choose tau and t in
    testing is not known: tau is the caller's, lowered by `fit_tau` as in training, and t is the
    window's middle.

    Raises:
      ValueError: a clip without any field.
    """
    tau = fit_tau(tau, num_fields, snippets, length)
    room = num_fields - window_size(snippets, length, tau)
    if room < 0 or positions == 1:
        starts = [room // 2] * positions
    else:
        steps = positions - 1
        fitting = [g for g in range(2, tau + 1) if tau % g == 0 and g * steps <= room]
        grid = max(fitting, default=1) if snippets > 1 else 1
        places = room // grid
        first = (room - grid * places) // 2
        starts = [first + grid * (i * places // steps) for i in range(positions)]
    return [_sample(start, num_fields, snippets, length, tau) for start in starts]


def numbers(
    sample: Sample, num_fields: int, length: int, inputs: Sequence[str]
) -> dict[str, Int64[np.ndarray, "..."]]:
    """Numbers of the records that a sample is made of, by the name of the input.

    `rgb` [] is frame t, `flow` [T, L] the fields of each snippet, `frames` [T, L + 1] the frames
    that its fields lie between. Beyond the clip's ends the first and last field repeat, so that
    the motion goes on; frames repeat too, so that nothing moves there (as TSN pads both).
    """
    starts = np.array(sample.starts, np.int64)[:, None]
    found: dict[str, Int64[np.ndarray, ...]] = {}
    for name in inputs:
        if name == "rgb":
            found[name] = np.array(sample.t, np.int64)
            continue
        more = name == "frames"
        wanted = starts + np.arange(length + more)
        # np.clip takes several times as long for so few.
        found[name] = np.minimum(np.maximum(wanted, 0), num_fields - 1 + more)
    return found


def _sample(start: int, num_fields: int, snippets: int, length: int, tau: int) -> Sample:
    if num_fields < 1:
        raise ValueError("a clip of one frame has no motion; at least 2 frames are needed")
    t = start + window_size(snippets, length, tau) // 2
    return Sample(
        t=min(max(t, 0), num_fields),
        starts=tuple(start + i * tau for i in range(snippets)),
        tau=tau,
    )
