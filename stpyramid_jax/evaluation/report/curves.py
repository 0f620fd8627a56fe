"""How a run went: loss and accuracy, gradient norms by part, speed, by step."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from stpyramid_jax.evaluation.report.figures import new_figure, save

# Metrics of each panel, by its title.
_PANELS = {
    "loss": ("loss",),
    "accuracy, attention entropy": (
        "accuracy",
        "validation/mean_class_accuracy",
        "attention_entropy",
    ),
    "gradient norm": ("gradient_norm",),  # and that of each part
    "learning rate": ("learning_rate",),
    "samples a second": ("samples_per_second",),
    "share of time waiting for data": ("data_wait",),
}

Curves = Sequence[Mapping[str, float]]
"""Metrics by name, `step` among them, a mapping for each step."""


def read_curves(workdir: Path) -> list[dict[str, float]]:
    """What `metrics.jsonl` of a workdir holds, by step; empty where there is none.

    Lines that are not whole are left out: a run may be writing one, or have been stopped at it.
    """
    path, steps = workdir / "metrics.jsonl", {}
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            metrics = {name: float(value) for name, value in json.loads(line).items()}
            steps.setdefault(int(metrics["step"]), {}).update(metrics)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            continue
    return [steps[step] for step in sorted(steps)]


def write_curves(curves: Curves, path: Path) -> None:
    """A row for each step, a column for each metric."""
    names = dict.fromkeys(name for metrics in curves for name in metrics)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["step", *(name for name in names if name != "step")])
        writer.writeheader()
        writer.writerows(curves)


def plot_curves(curves: Curves, path: Path) -> None:
    """Draws the panels; metrics of which no step has any are left out."""
    figure = new_figure(12, 6)
    for axes, (title, names) in zip(figure.subplots(2, 3).flat, _PANELS.items(), strict=True):
        _draw(axes, curves, title, names)
    save(figure, path)


def _draw(axes: Axes, curves: Curves, title: str, names: tuple[str, ...]) -> None:
    if title == "gradient norm":
        parts = dict.fromkeys(name for metrics in curves for name in metrics)
        names += tuple(name for name in parts if name.startswith("gradient_norm/"))
    for name in names:
        points = [(metrics["step"], metrics[name]) for metrics in curves if name in metrics]
        if points:
            label = name.removeprefix("gradient_norm/").partition("/")[0].replace("_", " ")
            axes.plot(*zip(*points, strict=True), label=label, marker="." * (len(points) < 40))
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step")
    if title == "gradient norm":
        norms = (metrics[name] for name in names for metrics in curves if name in metrics)
        if any(norm > 0 for norm in norms):  # there is no logarithm of others
            axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.02 if "accuracy" in title or "share" in title else None)
    if len(axes.lines) > 1:  # below, where it hides nothing
        axes.legend(
            fontsize=8,
            ncols=3,
            columnspacing=1,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.2),
            frameon=False,
        )
