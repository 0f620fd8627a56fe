"""What an evaluation leaves behind: numbers, scores and pictures in one folder."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stpyramid_jax.evaluation import metrics


def write_report(
    folder: Path,
    scores: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    classes: Sequence[str],
    protocol: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes summary.json, per_class.csv, scores.npz and confusion.png, and returns the summary.

    Args:
      scores: [N, K] class scores of each clip, before the softmax.
      protocol: what the numbers mean: views, split, data set, step; part of the summary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = metrics.confusion(scores, labels)
    summary = {
        **protocol,
        "num_clips": len(labels),
        "top1": metrics.topk_accuracy(scores, labels, 1),
        "top5": metrics.topk_accuracy(scores, labels, min(5, len(classes))),
        "mean_class_accuracy": metrics.mean_class_accuracy(counts),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    np.savez(
        folder / "scores.npz", scores=scores, labels=labels, names=np.array(names), classes=classes
    )
    with (folder / "per_class.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "clips", "correct", "accuracy", "most_confused_with"])
        for k, accuracy in enumerate(metrics.class_accuracies(counts)):
            wrong = counts[k].copy()
            wrong[k] = 0
            confused = classes[int(wrong.argmax())] if wrong.any() else ""
            share = f"{accuracy:.4f}" if counts[k].any() else ""
            writer.writerow([classes[k], counts[k].sum(), counts[k, k], share, confused])
    plot_confusion(counts, classes, folder / "confusion.png")
    return summary


def table(folder: Path) -> str:
    """A report as text for a terminal: accuracy by class, then overall, with its protocol."""
    with (folder / "per_class.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    summary = json.loads((folder / "summary.json").read_text())
    lines += [
        "",
        f"{summary['dataset']} {summary['split']}, {summary['num_clips']} test clips, "
        f"{summary['protocol']}, crop {summary['crop']}, tau {summary['test_tau']}, "
        f"step {summary['step']}:",
        f"  mean class accuracy {summary['mean_class_accuracy']:.1%}"
        f"  top-1 {summary['top1']:.1%}  top-5 {summary['top5']:.1%}",
        f"report: {folder}",
    ]
    return "\n".join(lines)


def plot_confusion(counts: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Draws the confusion matrix, rows as shares of their class, with counts."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(4.5, 0.42 * len(classes) + 2)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    ticks = np.arange(len(classes))
    small = 9 if len(classes) <= 30 else 5
    axes.set_xticks(ticks, classes, rotation=90, fontsize=small)
    axes.set_yticks(ticks, classes, fontsize=small)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(classes) <= 30:
        for i, j in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", color=color, fontsize=8)
    figure.savefig(path, dpi=150)
