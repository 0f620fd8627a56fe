"""Which classes are taken for which."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from stpyramid_jax.evaluation.metrics import class_accuracies
from stpyramid_jax.evaluation.report.figures import MANY, new_figure, save, short

Counts = Int[np.ndarray, "K K"]
"""Clips by true class (rows) and predicted class (columns)."""


class ClassRow(NamedTuple):
    """A line of per_class.csv; a class without clips has no accuracy."""

    name: str
    clips: int
    correct: int
    accuracy: float | None
    most_confused_with: str


class Pair(NamedTuple):
    """How many clips of one class are taken for another, and their share of its clips."""

    true: str
    predicted: str
    clips: int
    share: float


def class_rows(counts: Counts, classes: Sequence[str]) -> list[ClassRow]:
    """A row for each class, in the order of the classes."""
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    return [
        ClassRow(
            name,
            int(counts[k].sum()),
            int(counts[k, k]),
            None if np.isnan(accuracy) else float(accuracy),
            classes[int(wrong[k].argmax())] if wrong[k].any() else "",
        )
        for k, (name, accuracy) in enumerate(zip(classes, class_accuracies(counts), strict=True))
    ]


def confused_pairs(counts: Counts, classes: Sequence[str]) -> list[Pair]:
    """Every pair that occurs, most clips first, then the largest share."""
    pairs = [
        Pair(classes[i], classes[j], int(counts[i, j]), float(counts[i, j] / counts[i].sum()))
        for i, j in zip(*np.nonzero(counts), strict=True)
        if i != j
    ]
    return sorted(pairs, key=lambda pair: (-pair.clips, -pair.share))


def write_class_rows(rows: Sequence[ClassRow], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", *ClassRow._fields[1:]])
        for row in rows:
            share = "" if row.accuracy is None else f"{row.accuracy:.4f}"
            writer.writerow([*row[:3], share, row.most_confused_with])


def write_pairs(pairs: Sequence[Pair], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Pair._fields)
        writer.writerows([*pair[:3], f"{pair.share:.4f}"] for pair in pairs)


def plot_confusion(counts: Counts, classes: Sequence[str], path: Path) -> None:
    """Draws the matrix, rows as shares of their class; counts where there is room for them."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    few = len(classes) <= MANY
    size = max(4.5, (0.42 if few else 0.15) * len(classes) + 2)
    figure = new_figure(size + 1, size)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    text = {"fontsize": 9 if few else 6, "parse_math": False}
    names, ticks = [short(name) for name in classes], np.arange(len(classes))
    axes.set_xticks(ticks, names, rotation=90, **text)
    axes.set_yticks(ticks, names, **text)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for i, j in zip(*np.nonzero(counts), strict=True) if few else ():
        color = "white" if shares[i, j] > 0.5 else "black"
        axes.text(j, i, str(counts[i, j]), ha="center", va="center", color=color, fontsize=8)
    save(figure, path)
