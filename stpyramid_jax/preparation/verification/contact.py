"""A sheet of pictures of a prepared folder: frames beside the flow of the same instants."""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stpyramid_jax.colour import flow_colour
from stpyramid_jax.disk import write
from stpyramid_jax.preparation.sources.flow import dequantise
from stpyramid_jax.preparation.verification.audit import decode, image_of
from stpyramid_jax.preparation.verification.contents import PreparedVideo, read_offsets, read_videos
from stpyramid_jax.preparation.verification.description import read_dataset
from stpyramid_jax.records import read_record, shard_file

CLIPS = 8
INSTANTS = 3
WIDTH, HEAD, LINE, GAP = 1.9, 0.75, 0.26, 0.04  # inches: a picture, the head, a row's title
LENGTHS = (1, 2, 3, 5, 10, 20)  # pixels that the scale may end at


def contact_sheet(folder: Path) -> Path:
    """Writes `contact.png` into a complete prepared folder and returns its path.

    `dataset.json` does not list it: with or without it the folder is the same data set. It shows a
    clip of each of up to eight classes, frame k beside the flow from frame k to k + 1, on one
    scale of lengths.

    Raises:
      ValueError: the folder is not complete or what is to be shown is damaged.
      OSError: the picture cannot be written.
    """
    dataset = read_dataset(folder)
    videos = read_videos(folder, dataset)
    offsets = read_offsets(folder, dataset, videos)
    rows = []
    for chosen in _of_different_classes(videos):
        video = videos[chosen]
        for number in np.linspace(0, video.fields, INSTANTS + 2).astype(int)[1:-1].tolist():
            images = {
                family: _read(folder, dataset, family, video, number, places[chosen])
                for family, places in offsets.items()
            }
            rows.append((video, number, images))
    picture = io.BytesIO()
    with warnings.catch_warnings():  # letters that the font lacks are shown as boxes
        warnings.filterwarnings("ignore", message="Glyph")
        _draw(dataset, rows).savefig(picture, dpi=100)
    path = folder / "contact.png"
    write(path, picture.getvalue())
    return path


def _of_different_classes(videos: Sequence[PreparedVideo]) -> list[int]:
    """The middle clip of each of up to `CLIPS` classes, evenly spread."""
    clips = {}
    for number, video in enumerate(videos):
        clips.setdefault(video.label, []).append(number)
    labels = sorted(clips)
    spread = np.linspace(0, len(labels) - 1, min(len(labels), CLIPS)).round().astype(int)
    return [clips[labels[k]][len(clips[labels[k]]) // 2] for k in spread]


def _read(
    folder: Path,
    dataset: Mapping,
    family: str,
    video: PreparedVideo,
    number: int,
    places: np.ndarray,
) -> np.ndarray:
    """A frame as RGB, or a field as displacements [h, w, 2] in pixels."""
    path = folder / shard_file(dataset["name"], family, video.shard, dataset["shards"])
    where = f"{path.name}: {video.name!r:.99} {number}"
    with path.open("rb", buffering=0) as file:
        start, end = places[number : number + 2].tolist()
        payload = read_record(file.fileno(), start, end, where)
    image = decode(image_of(payload, video, number, where), family, dataset["parameters"], where)
    if family == "rgb":
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    planes = image.reshape(2, -1, image.shape[-1])
    return np.moveaxis(dequantise(planes, dataset["parameters"]["flow"]["bound"]), 0, -1)


def _draw(dataset: Mapping, rows: Sequence[tuple[PreparedVideo, int, Mapping]]) -> Figure:
    families, clips = dataset["families"], len(rows) // INSTANTS
    width, height = dataset["parameters"]["size"]
    tall = WIDTH * height / width
    size = (INSTANTS * len(families) * (WIDTH + GAP) + GAP, HEAD + clips * (LINE + tall + GAP))
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)

    def place(left: float, top: float, wide: float, high: float) -> Axes:
        edges = (left / size[0], 1 - (top + high) / size[1], wide / size[0], high / size[1])
        axes = figure.add_axes(edges)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("lightgrey")
        return axes

    def text(left: float, top: float, words: str, fontsize: int = 9) -> None:
        corner = (left / size[0], 1 - top / size[1])
        figure.text(*corner, words, fontsize=fontsize, va="top", parse_math=False)

    flows = [image for _, _, images in rows for f, image in images.items() if f != "rgb"]
    longest = _scale(flows)
    text(GAP, 0.08, _cut(f"{dataset['name']}: {dataset['videos']} videos", size[0]), fontsize=11)
    if flows:
        text(
            GAP,
            0.36,
            f"flow to the next frame; direction as hue, full at {longest} px, darker above",
        )
        across = np.linspace(-longest, longest, 101)
        wheel = np.stack(np.meshgrid(across, across), -1)
        inside = np.hypot(*np.moveaxis(wheel, -1, 0)) <= longest
        colours = np.where(inside[..., None], flow_colour(wheel, longest), 255)
        axes = place(size[0] - HEAD, 0.05, HEAD - 0.1, HEAD - 0.1)
        axes.imshow(colours)
        axes.set_axis_off()
    for cell, (video, number, images) in enumerate(rows):
        row, instant = divmod(cell, INSTANTS)
        top = HEAD + row * (LINE + tall + GAP)
        if instant == 0:
            clip = PurePosixPath(video.name).name
            text(GAP, top + 0.06, _cut(f"{video.class_name}: {clip}", size[0]))
        for column, (family, image) in enumerate(images.items(), instant * len(families)):
            axes = place(GAP + column * (WIDTH + GAP), top + LINE, WIDTH, tall)
            axes.imshow(image if family == "rgb" else flow_colour(image, longest), aspect="auto")
            label = f"frame {number}" if family == "rgb" else family
            box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.5}
            axes.text(0.02, 0.03, label, fontsize=7, transform=axes.transAxes, bbox=box)
    return figure


def _scale(flows: Sequence[np.ndarray]) -> int:
    if not flows:
        return LENGTHS[0]
    most = np.percentile([np.hypot(*np.moveaxis(flow, -1, 0)) for flow in flows], 95)
    return next((length for length in LENGTHS if length >= most), LENGTHS[-1])


def _cut(words: str, inches: float) -> str:
    """What fits into a line of the sheet; of longer words the middle is left out."""
    words = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in words)
    room = int(11 * inches)
    if len(words) <= room:
        return words
    return f"{words[: room // 2]}…{words[len(words) - room // 2 :]}"
