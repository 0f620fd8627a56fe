"""Accuracy of class scores."""

import numpy as np
from jaxtyping import Float, Int


def confusion(
    scores: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"]
) -> Int[np.ndarray, "K K"]:
    """Counts of clips by true class (rows) and predicted class (columns)."""
    counts = np.zeros((scores.shape[1], scores.shape[1]), np.int64)
    np.add.at(counts, (labels, scores.argmax(axis=1)), 1)
    return counts


def topk_accuracy(scores: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"], k: int) -> float:
    """Share of clips whose class is among the k best scores; a tie counts against the clip."""
    own = scores[np.arange(len(labels)), labels][:, None]
    rank = (~(scores < own)).sum(axis=1)  # a score that is no number is no hit either
    return float(np.mean(rank <= k))


def class_accuracies(counts: Int[np.ndarray, "K K"]) -> Float[np.ndarray, " K"]:
    """Share of each class's clips that are right; NaN for a class without clips."""
    totals = counts.sum(axis=1)
    return np.divide(np.diag(counts), totals, out=np.full(len(counts), np.nan), where=totals > 0)


def mean_class_accuracy(counts: Int[np.ndarray, "K K"]) -> float:
    """Mean over classes that have clips: the number UCF101 and HMDB51 results are published in."""
    return float(np.nanmean(class_accuracies(counts)))
