"""The features before and after each level in the plane, by t-SNE."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from matplotlib.lines import Line2D

from stpyramid_jax.evaluation.report.figures import class_colours, new_figure, save, short
from stpyramid_jax.progress import say

# By name, in the order of the pyramid.
TITLES = {
    "spatial": "spatial stream",
    "temporal": "flow stream",
    "motion": "after level 1: motion",
    "attended": "after level 2: attended",
    "fused": "after level 3: fused",
}
_PRINCIPAL = 50  # components that t-SNE sees, as van der Maaten and Hinton 2008
_NEIGHBOURS = 30  # at most: the perplexity of many clips
_LEAST = 5  # clips: of fewer there are no neighbourhoods

Points = Mapping[str, Float[np.ndarray, "N 2"]]
"""Places of clips in the plane, by the name of the features."""


def embed(
    features: Mapping[str, Float[np.ndarray, "N _"]], labels: Int[np.ndarray, " N"]
) -> Points:
    """t-SNE of the leading principal components, scaled to 0..1; always the same for the same.

    The perplexity is the number of clips of a class, at most 30. Features in which all clips are
    alike are left out, and all of them without scikit-learn or with fewer than five clips.
    """
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError:
        say("t-SNE is left out of the report; it needs pip install 'stpyramid-jax[report]'")
        return {}
    found = {}
    for name in TITLES:
        x = features.get(name)
        if x is None or len(x) < _LEAST or not np.ptp(x, axis=0).any():
            continue
        perplexity = min(_NEIGHBOURS, len(x) / len(np.unique(labels)), (len(x) - 1) / 3)
        # Threads wait for each other: one takes a third of the processor time of two.
        with threadpool_limits(1):
            principal = PCA(min(_PRINCIPAL, *x.shape), random_state=0).fit_transform(x)
            places = TSNE(perplexity=perplexity, random_state=0).fit_transform(principal)
        low, high = places.min(axis=0), places.max(axis=0)
        found[name] = (places - low) / (high - low)
    return found


def write_points(
    points: Points, labels: Int[np.ndarray, " N"], names: Sequence[str], classes, path: Path
) -> None:
    """A row for each clip and kind of features."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["features", "clip", "class", "x", "y"])
        for kind, places in points.items():
            for name, label, (x, y) in zip(names, labels, places, strict=True):
                writer.writerow([kind, name, classes[label], f"{x:.4f}", f"{y:.4f}"])


def plot_points(
    points: Points, labels: Int[np.ndarray, " N"], classes: Sequence[str], path: Path
) -> None:
    """Draws a panel for each kind of features; a legend where the classes can be told apart."""
    columns = min(3, len(points))
    rows = -(-len(points) // columns)
    colours = class_colours(len(classes))
    figure = new_figure(max(3.6 * columns, 5), 3.6 * rows + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, places) in zip(panels, points.items(), strict=False):
        axes.scatter(*places.T, s=12, c=[colours[label] for label in labels])
        axes.set_title(TITLES[name], fontsize=10)
        axes.set(xticks=[], yticks=[])
    for axes in panels[len(points) :]:
        axes.set_axis_off()
    if len(classes) <= 20:
        dots = [Line2D([], [], marker="o", linestyle="", color=c, markersize=4) for c in colours]
        legend = figure.legend(
            dots[: len(classes)],
            [short(name) for name in classes],
            loc="outside lower center",
            ncols=min(2 * columns, 5),
            fontsize=8,
            frameon=False,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    save(figure, path)
