"""What a model says of a long video, window by window, as a table and a strip of colours.

The video passes by as a stream: each flow field is computed once, and what is held is a few windows
of frames and fields, whatever the length; of the past a row of probabilities remains.
"""

import csv
import itertools
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stpyramid_jax.input.augment import test_views
from stpyramid_jax.input.config import InputConfig
from stpyramid_jax.input.reading import read_views
from stpyramid_jax.input.sampling import test_samples, window_size
from stpyramid_jax.input.tfrecord import Video
from stpyramid_jax.preparation.sources.flow import flow_fields

WINDOWS = 8  # that go through the model at once, or a few more on many devices
_ROWS = 10  # classes in the picture, at most
_LIKELY = 0.05  # probability that they reach

Look = Callable[
    [Mapping[str, np.ndarray]],
    tuple[Float[np.ndarray, "B K"], Float[np.ndarray, "B h w"] | None],
]
"""Class probabilities, and attention if the model has it, of images by the names of its inputs."""


class Window(NamedTuple):
    """A stretch of a video as long as the model looks at, from frame number `start` on.

    `images` are its frames, uint8 RGB [h, w, 3]; `fields` lead from each to the next, uint8
    [2, h, w], and are empty where the model sees no flow.
    """

    start: int
    images: Sequence[UInt8[np.ndarray, "h w 3"]]
    fields: Sequence[UInt8[np.ndarray, "2 h w"]]

    @property
    def middle(self) -> int:
        """Number of its middle frame, the one that the spatial stream sees."""
        return self.start + (len(self.images) - 1) // 2


class Moment(NamedTuple):
    """A window and what the model says of it; `attention` is over the centre crop."""

    window: Window
    probabilities: Float[np.ndarray, " K"]
    attention: Float[np.ndarray, "h w"] | None


def windows(
    images: Iterable[UInt8[np.ndarray, "h w 3"]], method: str, config: InputConfig
) -> Iterator[Window]:
    """Windows of a video, half a snippet apart; the last ends with the video.

    A video shorter than a window is one window.

    Args:
      images: all frames of the video, at least one, drawn as they are needed.
      method: of `flow_fields`.
      config: snippets, their length and `test_tau` make the length of a window.
    """
    length = window_size(config.snippets, config.snippet_length, config.test_tau)
    step = max(1, config.snippet_length // 2)
    held: deque[tuple[np.ndarray, np.ndarray | None]] = deque(maxlen=length + 1)
    count = 0
    for count, pair in enumerate(_frames_and_fields(images, method, config), 1):
        held.append(pair)
        start = count - len(held)
        if len(held) > length and start % step == 0:
            yield _window(start, held)
    start = count - len(held)
    if count <= length or start % step:
        yield _window(start, held)


def _window(start: int, held: Iterable[tuple[np.ndarray, np.ndarray | None]]) -> Window:
    images, fields = zip(*held, strict=True)
    return Window(start, images, [field for field in fields[:-1] if field is not None])


def _frames_and_fields(images, method, config):
    """Each frame with the field to the next, or None: after the last, or if none is wanted."""
    images, taken = iter(images), deque()

    def grey_frames() -> Iterator[np.ndarray]:
        for image in images:
            taken.append(image)
            yield cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)

    if "flow" in config.inputs:
        for (field,) in flow_fields(grey_frames(), method, (config.motion,)):
            yield taken.popleft(), field
    yield from ((image, None) for image in itertools.chain(taken, images))


def moments(
    found: Iterable[Window], config: InputConfig, look: Look, rows: int
) -> Iterator[Moment]:
    """Shows windows to a model, the centre crop of each, `rows` at once."""
    found = iter(found)
    while some := list(itertools.islice(found, rows)):
        images = {name: np.zeros((rows, *shape), np.uint8) for name, shape in config.shapes.items()}
        for k, window in enumerate(some):
            _read(window, config, {name: image[k : k + 1] for name, image in images.items()})
        probabilities, attention = look(images)
        for k, window in enumerate(some):
            yield Moment(window, probabilities[k], None if attention is None else attention[k])


def _read(window: Window, config: InputConfig, row: Mapping[str, np.ndarray]) -> None:
    clip = _Clip(window, config.families)
    (sample,) = test_samples(
        clip.videos[0].fields, 1, config.snippets, config.snippet_length, config.test_tau
    )
    read_views(clip, 0, sample, config, lambda size: test_views(size, config.test_scale, 1), row)


class _Clip:
    """A window as a source of one clip."""

    def __init__(self, window: Window, families: Sequence[str]):
        count = len(window.images)
        self.directory, self.families, self._window = Path(), families, window
        self.videos = (Video("", -1, "", count, count - 1, 0, {}),)

    def rgb(self, video: int, frame: int) -> np.ndarray:
        return self._window.images[frame]

    def flow(self, video: int, start: int, length: int, family: str = "flow"):
        return self._window.fields[start : start + length]


def write_timeline(
    found: Iterable[Moment], path: Path, title: str, classes: Sequence[str], rate: Fraction
) -> Iterator[Moment]:
    """Writes moments as rows of a CSV, passing them on, and at the end a picture beside it.

    Columns are start and end of the window in seconds, the most probable class, its probability,
    and the probability of each class.

    Args:
      path: of the CSV; the picture has the suffix `.png` instead.
      rate: frames a second. Times are numbers of frames over it: where a video's rate varies, what
        they tell is the share of its frames that has gone by.
    """
    middles, probabilities, last = [], [], 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["start", "end", "class", "probability", *classes])
        for moment in found:
            window, row = moment.window, moment.probabilities
            last = window.start + len(window.images)
            best = int(row.argmax())
            times = [f"{float(number / rate):.3f}" for number in (window.start, last)]
            writer.writerow([*times, classes[best], *(f"{p:.4f}" for p in (row[best], *row))])
            middles.append(float((window.middle + 0.5) / rate))
            probabilities.append(row.copy())  # alone, not with the batch that it is of
            yield moment
    figure = _strip(title, classes, np.array(middles), np.array(probabilities), float(last / rate))
    with warnings.catch_warnings():  # letters that the font lacks are shown as boxes
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(path.with_suffix(".png"), dpi=110)


def _strip(
    title: str,
    classes: Sequence[str],
    middles: Float[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n K"],
    duration: float,
) -> Figure:
    """A line of colours for each class that is ever likely, in the order in which they peak."""
    peaks = probabilities.max(axis=0)
    count = int(np.clip((peaks >= _LIKELY).sum(), 1, _ROWS))
    likely = np.argsort(-peaks, kind="stable")[:count]
    likely = likely[np.argsort(probabilities[:, likely].argmax(axis=0), kind="stable")]
    edges = np.array([0, *(middles[1:] + middles[:-1]) / 2, duration])
    figure = Figure(figsize=(11, 1.3 + 0.32 * len(likely)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines = np.arange(len(likely) + 1)
    image = axes.pcolormesh(edges, lines, probabilities[:, likely].T, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="probability", pad=0.01)
    axes.set_yticks(lines[:-1] + 0.5, [classes[k] for k in likely], parse_math=False)
    axes.hlines(lines, 0, duration, color="lightgrey", linewidth=0.5)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    return figure
