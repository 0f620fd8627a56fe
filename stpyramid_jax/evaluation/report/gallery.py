"""Some clips that were told right and some that were not, as the model sees them."""

import contextlib
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int

from stpyramid_jax.evaluation.metrics import guesses, top1_hits
from stpyramid_jax.evaluation.observation import Pictures
from stpyramid_jax.evaluation.report.figures import data_uri
from stpyramid_jax.evaluation.scores import probabilities

_SHOWN = 12  # clips of either kind


class Card(NamedTuple):
    """A clip that is shown: its classes, their probabilities, and the place of its pictures."""

    file: str
    clip: str
    true: str
    true_probability: float
    predicted: str
    predicted_probability: float
    pictures: dict[str, str]  # data URIs by name

    @property
    def right(self) -> bool:
        return self.file.startswith("right")


def choose(scores: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"]) -> dict[str, list[int]]:
    """Clips to show: those most surely `wrong`, and the most surely `right` one of each class."""
    hits = top1_hits(scores, labels)
    order = np.argsort(-probabilities(scores).max(axis=1), kind="stable").tolist()
    wrong = [i for i in order if not hits[i]]
    right: dict[int, int] = {}
    for i in order:
        if hits[i]:
            right.setdefault(int(labels[i]), i)
    return {"wrong": wrong[:_SHOWN], "right": list(right.values())[:_SHOWN]}


def clear(folder: Path) -> None:
    """Removes an earlier gallery, and nothing else that the folder holds."""
    for pattern in ("gallery.csv", "right-[0-9][0-9]-*.png", "wrong-[0-9][0-9]-*.png"):
        for path in folder.glob(pattern):
            path.unlink()
    with contextlib.suppress(OSError):  # there is none, or it holds files of someone else
        folder.rmdir()


def write_gallery(
    folder: Path,
    look: Callable[[int], Pictures],
    scores: Float[np.ndarray, "N K"],
    labels: Int[np.ndarray, " N"],
    names: Sequence[str],
    classes: Sequence[str],
) -> list[Card]:
    """Writes `<kind>-<n>-<picture>.png` and gallery.csv into a folder.

    Args:
      look: as in `Observations`.
      scores: class scores of each clip, before the softmax.
    """
    folder.mkdir(exist_ok=True)
    cards, shares, taken_for = [], probabilities(scores), guesses(scores, labels)
    for kind, clips in choose(scores, labels).items():
        for number, i in enumerate(clips, 1):
            file = f"{kind}-{number:02d}"
            pictures = {}
            for name, picture in look(i).items():
                bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
                (folder / f"{file}-{name}.png").write_bytes(cv2.imencode(".png", bgr)[1].tobytes())
                # JPEG in the page: a sixth of the bytes.
                jpeg = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, 90))[1]
                pictures[name] = data_uri(jpeg.tobytes(), "jpeg")
            true, predicted = ((classes[k], float(shares[i, k])) for k in (labels[i], taken_for[i]))
            cards.append(Card(file, names[i], *true, *predicted, pictures))
    with (folder / "gallery.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Card._fields[:-1])
        writer.writerows(card[:-1] for card in cards)
    return cards
