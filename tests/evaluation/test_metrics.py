"""Accuracies against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from stpyramid_jax.evaluation import metrics


def draw(classes=4, clips=60, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(clips, classes)), rng.integers(0, classes, clips)


def test_against_scikit_learn():
    scores, labels = draw()
    counts = metrics.confusion(scores, labels)
    np.testing.assert_array_equal(counts, reference.confusion_matrix(labels, scores.argmax(1)))
    for k in (1, 2, 3):
        expected = reference.top_k_accuracy_score(labels, scores, k=k)
        assert metrics.topk_accuracy(scores, labels, k) == expected
    balanced = reference.balanced_accuracy_score(labels, scores.argmax(1))
    np.testing.assert_allclose(metrics.mean_class_accuracy(counts), balanced)


def test_classes_count_equally_however_many_clips_they_have():
    scores = np.eye(2)[[0] * 9 + [0]]
    labels = np.array([0] * 9 + [1])
    assert metrics.mean_class_accuracy(metrics.confusion(scores, labels)) == 0.5
    assert metrics.topk_accuracy(scores, labels, 1) == 0.9


def test_a_class_without_clips_is_left_out_of_the_mean():
    counts = metrics.confusion(np.eye(3)[[0, 1]], np.array([0, 0]))
    np.testing.assert_array_equal(metrics.class_accuracies(counts), [0.5, np.nan, np.nan])
    assert metrics.mean_class_accuracy(counts) == 0.5


def test_a_tie_is_no_hit():
    """A network that gives every class one score has learnt nothing and gets nothing."""
    assert metrics.topk_accuracy(np.zeros((5, 3)), np.zeros(5, int), 1) == 0
    assert metrics.topk_accuracy(np.full((5, 3), np.nan), np.zeros(5, int), 1) == 0


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(1, 9))
def test_every_number_counts_the_same_clips_as_right(seed, classes, clips):
    """Few whole scores tie often; what is no hit is taken for another class of the best score."""
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 3, (clips, classes)) / 2, rng.integers(0, classes, clips)
    hits, taken_for = metrics.top1_hits(scores, labels), metrics.guesses(scores, labels)
    np.testing.assert_array_equal(taken_for == labels, hits)
    np.testing.assert_array_equal(scores[np.arange(clips), taken_for], scores.max(axis=1))
    counts = metrics.confusion(scores, labels)
    assert counts.trace() / clips == metrics.topk_accuracy(scores, labels, 1)
    assert metrics.class_mean(hits, labels) == pytest.approx(metrics.mean_class_accuracy(counts))


def test_an_interval_is_that_of_drawing_clips_within_classes():
    """Beside drawing the clips themselves, by numbers and not by counts."""
    labels = np.repeat([0, 1, 3], [30, 12, 5])
    values = np.random.default_rng(1).choice([-1, 0, 1], 47, p=[0.2, 0.3, 0.5])
    over_clips, over_classes = metrics.resampled(values, labels)
    rng, expected = np.random.default_rng(2), []
    for _ in range(5_000):
        own = [rng.choice(values[labels == k], (labels == k).sum()) for k in (0, 1, 3)]
        expected.append((np.concatenate(own).mean(), np.mean([x.mean() for x in own])))
    for found, drawn in zip((over_clips, over_classes), np.transpose(expected), strict=True):
        assert found.mean() == pytest.approx(drawn.mean(), abs=0.01)
        assert found.std() == pytest.approx(drawn.std(), rel=0.05)
        np.testing.assert_allclose(metrics.interval(found), metrics.interval(drawn), atol=0.03)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Of 150 test parts of 115 clips in ten classes, some 95 % of the intervals hold the truth."""
    rng, labels = np.random.default_rng(0), np.arange(115) % 10
    truth = np.linspace(0.6, 0.95, 10)
    covered = []
    for _ in range(150):
        right = rng.random(115) < truth[labels]
        scores = np.eye(11)[np.where(right, labels, 10)]
        low, high = metrics.intervals(scores, labels)["mean_class_accuracy_interval"]
        covered.append(low <= truth.mean() <= high)
    assert 0.92 <= np.mean(covered) < 0.99


@pytest.mark.parametrize("classes", [1, 6])
def test_without_an_error_an_interval_still_has_a_width(classes):
    """The exact interval of 120 of 120 begins at .97 (Clopper and Pearson); Wilson's is near."""
    labels = np.arange(120) % classes
    found = metrics.intervals(np.eye(classes + 1)[labels], labels)
    for low, high in found.values():
        assert low == pytest.approx(0.97, abs=0.003)
        assert high == 1


def test_effective_clips_are_those_of_one_mean_as_sure():
    assert metrics.effective_clips(np.arange(60) % 6) == pytest.approx(60)
    rng, sizes = np.random.default_rng(0), (5, 40)
    means = [np.mean([rng.random(n).mean() for n in sizes]) for _ in range(20_000)]
    assert metrics.effective(sizes) == pytest.approx(1 / 12 / np.var(means), rel=0.05)


def test_intervals_hold_their_accuracies_and_narrow_with_clips():
    widths = []
    for clips in (100, 400, 1600):
        scores, labels = draw(clips=clips)
        found = metrics.intervals(scores, labels)
        accuracies = {
            "top1_interval": metrics.topk_accuracy(scores, labels, 1),
            "mean_class_accuracy_interval": metrics.mean_class_accuracy(
                metrics.confusion(scores, labels)
            ),
        }
        assert found.keys() == accuracies.keys()
        for key, (low, high) in found.items():
            assert low < accuracies[key] < high
        widths.append(np.ptp(found["top1_interval"]))
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.25)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.25)


def test_draws_of_another_seed_are_others():
    """Splits whose clips are drawn alike would seem to say the same thing twice."""
    values, labels = np.arange(40) % 2, np.repeat([0, 1], 20)
    first, second = (metrics.resampled(values, labels, seed)[1] for seed in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    np.testing.assert_array_equal(first, metrics.resampled(values, labels, 0)[1])
