"""Draws how a run went: loss and accuracy, gradient norms by part, and speed, by step.

python docs/curves.py --workdir=demo/run --out=docs/curves.png
"""

import argparse
import json
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Metrics of each picture, by the name of its axis.
PANELS = {
    "loss": ("loss",),
    "accuracy, attention entropy": (
        "accuracy",
        "validation/mean_class_accuracy",
        "attention_entropy",
    ),
    "gradient norm": ("gradient_norm",),  # and that of each part
    "samples a second": ("samples_per_second",),
    "share of time waiting for data": ("data_wait",),
}


def draw(axes: Axes, lines: list[dict[str, float]], title: str, names: tuple[str, ...]) -> None:
    """Curves of some metrics, those of which no line has any left out."""
    if title == "gradient norm":
        names += tuple(name for name in lines[0] if name.startswith("gradient_norm/"))
        axes.set_yscale("log")
    for name in names:
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), label=name.rpartition("/")[2].replace("_", " "))
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step")
    if title != "gradient norm":
        axes.set_ylim(0, 1.02 if "accuracy" in title or "share" in title else None)
    if len(axes.lines) > 1:
        axes.legend(fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    args = parser.parse_args()
    path = args.workdir / "metrics.jsonl"
    if not path.is_file():
        parser.error(f"--workdir={args.workdir}: no metrics.jsonl; is it the folder of a run?")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    figure = Figure(figsize=(4 * len(PANELS), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, names) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        draw(axes, lines, title, names)
    figure.savefig(args.out, dpi=90)


if __name__ == "__main__":
    main()
