"""The report as one HTML file that needs nothing but itself."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from jaxtyping import Int

from stpyramid_jax.colour import flow_colour
from stpyramid_jax.evaluation.report.confusion import ClassRow, Counts, Pair
from stpyramid_jax.evaluation.report.features import TITLES, Points
from stpyramid_jax.evaluation.report.figures import MANY, class_colours, data_uri, short
from stpyramid_jax.evaluation.report.gallery import Card

_HEADLINES = {
    "mean_class_accuracy": "mean class accuracy",
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
}
_KINDS = (("Wrong, the surest first", False), ("Right, the surest of each class", True))
_PAIRS = 20  # of the most confused are listed
_CELL, _LETTER = 20, 6.5  # of the matrix: a cell's side, a letter's width


def render(
    summary: Mapping[str, Any],
    counts: Counts,
    rows: Sequence[ClassRow],
    pairs: Sequence[Pair],
    cards: Sequence[Card],
    points: Points,
    labels: Int[np.ndarray, " N"],
    names: Sequence[str],
    curves: Path | None,
) -> str:
    """The page. Sections without content are left out.

    Args:
      summary: what `summary.json` holds.
      labels, names: class and name of each clip of `points`.
      curves: a PNG.
    """
    classes = [row.name for row in rows]
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    # What is not a constant of the template is escaped.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template).render(
        summary=summary,
        headlines=[
            (title, summary[key], summary.get(f"{key}_interval"))
            for key, title in _HEADLINES.items()
        ],
        details=[(key.replace("_", " "), _text(value)) for key, value in summary.items()],
        rows=rows,
        pairs=pairs[:_PAIRS],
        unlisted=max(0, len(pairs) - _PAIRS),
        counts=counts.tolist(),
        classes=classes,
        matrix=_matrix(counts, classes),
        groups={kind: [card for card in cards if card.right == right] for kind, right in _KINDS},
        pictured={name for card in cards for name in card.pictures},
        wheel=_wheel(),
        panels=_panels(points, labels),
        names=names,
        labels=labels.tolist(),
        colours=class_colours(len(classes)),
        curves=curves and data_uri(curves.read_bytes(), "png"),
    )


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _matrix(counts: Counts, classes: Sequence[str]) -> dict[str, Any]:
    """The cells that hold clips, and room for labels where there are few classes."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels = [short(name) for name in classes] if len(classes) <= MANY else []
    margin = 8 + _LETTER * max(map(len, labels)) if labels else 0
    cells = [
        (int(i), int(j), int(counts[i, j]), float(shares[i, j]))
        for i, j in zip(*np.nonzero(counts), strict=True)
    ]
    return {
        "side": _CELL * len(classes),
        "cell": _CELL,
        "margin": margin,
        "labels": labels,
        "cells": cells,
    }


def _panels(points: Points, labels: Int[np.ndarray, " N"]) -> list[dict[str, Any]]:
    """Of each kind of features the title and the places of the clips, 0..100, y downwards."""
    return [
        {"title": TITLES[name], "places": np.round(100 * places * (1, -1) + (0, 100), 1).tolist()}
        for name, places in points.items()
    ]


def _wheel() -> str:
    """The colours of flow by direction and length."""
    across = np.linspace(-1, 1, 65)
    flow = np.stack(np.meshgrid(across, across), axis=-1)
    inside = np.linalg.norm(flow, axis=-1, keepdims=True) <= 1
    colours = np.concatenate([flow_colour(flow, 1.0), 255 * inside.astype(np.uint8)], axis=-1)
    png = cv2.imencode(".png", cv2.cvtColor(colours, cv2.COLOR_RGBA2BGRA))[1]
    return data_uri(png.tobytes(), "png")
