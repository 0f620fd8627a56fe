"""What an evaluation leaves behind: numbers, scores, pictures and a page, in one folder."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from stpyramid_jax.evaluation import metrics
from stpyramid_jax.evaluation.observation import Observations
from stpyramid_jax.evaluation.report import confusion, curves, features, gallery, page
from stpyramid_jax.evaluation.scores import Scores, save


def write_report(
    folder: Path,
    scores: Float[np.ndarray, "N K"],
    labels: Int[np.ndarray, " N"],
    names: Sequence[str],
    classes: Sequence[str],
    protocol: Mapping[str, Any],
    observations: Observations | None = None,
    run: curves.Curves = (),
) -> dict[str, Any]:
    """Writes report.html and, beside it, all that it shows, and returns the summary.

    Always summary.json, scores.npz, per_class.csv, confused_pairs.csv, confusion.png; a gallery and
    t-SNE (tsne.png, .csv) of what was observed; curves.png and .csv of the run. What an earlier
    evaluation left of these is removed.

    Args:
      scores: class scores of each clip, before the softmax.
      protocol: what the numbers mean: views, split, data set, step; part of the summary.
      observations: of the same clips in the same order.
      run: metrics of the training, of `read_curves`.

    Raises:
      ValueError: scores, labels and names that do not belong together, as `Scores`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("report.html", "tsne.csv", "tsne.png", "curves.csv", "curves.png"):
        (folder / name).unlink(missing_ok=True)
    gallery.clear(folder / "gallery")
    counts = metrics.confusion(scores, labels)
    summary = {
        **protocol,
        "num_clips": len(labels),
        "top1": metrics.topk_accuracy(scores, labels, 1),
        "top5": metrics.topk_accuracy(scores, labels, min(5, len(classes))),
        "mean_class_accuracy": metrics.mean_class_accuracy(counts),
        **metrics.intervals(scores, labels),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    save(Scores(scores, labels, tuple(names), tuple(classes), protocol), folder / "scores.npz")
    rows = confusion.class_rows(counts, classes)
    pairs = confusion.confused_pairs(counts, classes)
    confusion.write_class_rows(rows, folder / "per_class.csv")
    confusion.write_pairs(pairs, folder / "confused_pairs.csv")
    confusion.plot_confusion(counts, classes, folder / "confusion.png")

    cards, points = [], {}
    if observations is not None:
        cards = gallery.write_gallery(
            folder / "gallery", observations.look, scores, labels, names, classes
        )
        points = features.embed(observations.features, labels)
    if points:
        features.write_points(points, labels, names, classes, folder / "tsne.csv")
        features.plot_points(points, labels, classes, folder / "tsne.png")
    if run:
        curves.write_curves(run, folder / "curves.csv")
        curves.plot_curves(run, folder / "curves.png")
    text = page.render(
        summary=summary,
        counts=counts,
        rows=rows,
        pairs=pairs,
        cards=cards,
        points=points,
        labels=labels,
        names=names,
        curves=folder / "curves.png" if run else None,
    )
    (folder / "report.html").write_text(text, encoding="utf-8")
    return summary


def table(folder: Path) -> str:
    """A report as text for a terminal: accuracy by class, then overall, with its protocol."""
    with (folder / "per_class.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    summary = json.loads((folder / "summary.json").read_text())
    views = [
        f"{title} {summary[key]}"
        for key, title in (("crop", "crop"), ("test_tau", "tau"), ("step", "step"))
        if key in summary
    ]
    low, high = summary["mean_class_accuracy_interval"]
    lines += [
        "",
        f"{summary['dataset']} {summary['split']}, {summary['num_clips']} test clips, "
        f"{', '.join([summary['protocol'], *views])}:",
        f"  mean class accuracy {summary['mean_class_accuracy']:.1%} ({low:.1%} to {high:.1%})"
        f"  top-1 {summary['top1']:.1%}  top-5 {summary['top5']:.1%}",
        f"report: {folder / 'report.html'}",
    ]
    return "\n".join(lines)
