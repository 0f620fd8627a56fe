"""What the pictures of a report have in common."""

import base64
import warnings
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

MANY = 30  # classes: more are not labelled in a matrix


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():  # letters that the font lacks are shown as boxes
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(path, dpi=120)


def short(name: str, room: int = 24) -> str:
    """A name as a label: what cannot be printed as �, its end left out where it is longer."""
    name = "".join(sign if sign.isprintable() else "�" for sign in name)
    return name if len(name) <= room else f"{name[: room - 1]}…"


def class_colours(count: int) -> list[str]:
    """A colour for each class, as #rrggbb: as unlike as so many can be."""
    if count > 20:
        return [to_hex(colour) for colour in colormaps["hsv"](np.arange(count) / count)]
    palette = colormaps["tab10" if count <= 10 else "tab20"]
    return [to_hex(palette(k)) for k in range(count)]


def data_uri(content: bytes, kind: str) -> str:
    """A picture as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
