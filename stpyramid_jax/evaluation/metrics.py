"""Accuracy of class scores, and how sure it is."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

_DRAWS = 10_000


def confusion(
    scores: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"]
) -> Int[np.ndarray, "K K"]:
    """Counts of clips by true class (rows) and by the class of `guesses` (columns)."""
    counts = np.zeros((scores.shape[1], scores.shape[1]), np.int64)
    np.add.at(counts, (labels, guesses(scores, labels)), 1)
    return counts


def guesses(
    scores: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " N"]:
    """The class that each clip is taken for: the one of the best score, in a tie not its own."""
    own = labels[:, None] == np.arange(scores.shape[1])
    others = np.where(own, -np.inf, scores).argmax(axis=1)
    return np.where(top1_hits(scores, labels), labels, others)


def topk_accuracy(scores: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"], k: int) -> float:
    """Share of clips whose class is among the k best scores; a tie counts against the clip."""
    return float(np.mean(_ranks(scores, labels) <= k))


def top1_hits(
    scores: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"]
) -> Bool[np.ndarray, " N"]:
    """Whether a clip's class has the best score, alone."""
    return _ranks(scores, labels) == 1


def _ranks(scores: np.ndarray, labels: np.ndarray) -> Int[np.ndarray, " N"]:
    own = scores[np.arange(len(labels)), labels][:, None]
    return (~(scores < own)).sum(axis=1)  # a score that is no number is no hit either


def class_accuracies(counts: Int[np.ndarray, "K K"]) -> Float[np.ndarray, " K"]:
    """Share of each class's clips that are right; NaN for a class without clips."""
    totals = counts.sum(axis=1)
    return np.divide(np.diag(counts), totals, out=np.full(len(counts), np.nan), where=totals > 0)


def mean_class_accuracy(counts: Int[np.ndarray, "K K"]) -> float:
    """Mean over classes that have clips: the number UCF101 and HMDB51 results are published in."""
    return float(np.nanmean(class_accuracies(counts)))


def class_mean(values: Shaped[np.ndarray, " N"], labels: Int[np.ndarray, " N"]) -> float:
    """Mean over classes of the mean over their clips, whatever the clips' values are."""
    return float(np.mean([values[labels == label].mean() for label in np.unique(labels)]))


def mcnemar(first: Bool[np.ndarray, " N"], second: Bool[np.ndarray, " N"]) -> float:
    """Probability of a difference as large as that between two models, were they equally good.

    The exact test of McNemar (1947), two-sided: of the clips that only one of them has right, each
    is as likely to be the one's as the other's.

    Args:
      first: whether one model has the clip right; `second`, the other.
    """
    from scipy.stats import binomtest  # half a second, which only this needs

    only_first = int((first & ~second).sum())
    differing = only_first + int((second & ~first).sum())
    return float(binomtest(only_first, differing).pvalue) if differing else 1.0


def resampled(
    values: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], seed: int = 0
) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """Bootstrap of clips: the mean over all clips and the mean over classes, for 10,000 draws.

    Clips are drawn with replacement within their class, since a split fixes how many clips each
    class has (Efron and Tibshirani 1993, resampling of several samples). Clips of one group are
    nearly alike and count as if they were not: with other groups results would vary more.

    Args:
      values: 1, 0 or -1 for each clip: a hit, or the hits of one model less those of another.
      seed: of the draws, which are independent of those of another seed.
    """
    rng = np.random.default_rng(seed)
    counts, means = [], []
    for label in np.unique(labels):
        own = values[labels == label]
        # What n draws from so few different values amount to.
        drawn = rng.multinomial(len(own), [(own == v).mean() for v in (1, -1, 0)], _DRAWS)
        counts.append(len(own))
        means.append((drawn[:, 0] - drawn[:, 1]) / len(own))
    return np.average(means, axis=0, weights=counts), np.mean(means, axis=0)


def interval(draws: Float[np.ndarray, " draws"]) -> tuple[float, float]:
    """The middle 95 % of a bootstrap's draws (percentile interval, Efron and Tibshirani 1993)."""
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def accuracy_interval(
    share: float, clips: float, draws: Float[np.ndarray, " draws"]
) -> tuple[float, float]:
    """The 95 % interval of an accuracy: the bootstrap's, no narrower than Wilson's (1927).

    With few errors the bootstrap is too narrow, and without any it has no width.

    Args:
      share: the accuracy.
      clips: how many it is of; of a mean over classes or splits, `effective` ones.
    """
    z2 = 1.96**2
    middle = (share + z2 / 2 / clips) / (1 + z2 / clips)
    half = (z2 * (share * (1 - share) / clips + z2 / 4 / clips**2)) ** 0.5 / (1 + z2 / clips)
    low, high = interval(draws)
    return max(0.0, min(low, middle - half)), min(1.0, max(high, middle + half))


def effective(counts: Sequence[float]) -> float:
    """Clips that tell as much in one mean as parts of so many do in the mean of their means."""
    return float(len(counts) ** 2 / np.sum(1 / np.asarray(counts)))


def effective_clips(labels: Int[np.ndarray, " N"]) -> float:
    """`effective` of the classes' clips."""
    return effective(np.unique(labels, return_counts=True)[1].tolist())


def intervals(
    scores: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"]
) -> dict[str, tuple[float, float]]:
    """The 95 % intervals `top1_interval` and `mean_class_accuracy_interval` over clips."""
    hits = top1_hits(scores, labels)
    over_clips, over_classes = resampled(hits.astype(np.int64), labels)
    return {
        "top1_interval": accuracy_interval(float(hits.mean()), len(hits), over_clips),
        "mean_class_accuracy_interval": accuracy_interval(
            class_mean(hits, labels), effective_clips(labels), over_classes
        ),
    }
