"""Accuracies against their definitions."""

import numpy as np
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
