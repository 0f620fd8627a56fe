"""Class scores of an evaluation: as probabilities, as a file, and the sum of several."""

import dataclasses
import itertools
import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from stpyramid_jax.evaluation.metrics import top1_hits

_NAMED = 3  # clips in an error


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of N clips over K classes, before the softmax.

    Attributes:
      labels: the true class of each clip.
      names: of the clips, all different.
      protocol: what the scores mean: views, split, data set, step.
    """

    scores: Float[np.ndarray, "N K"]
    labels: Int[np.ndarray, " N"]
    names: tuple[str, ...]
    classes: tuple[str, ...]
    protocol: Mapping[str, Any]

    def __post_init__(self):
        shape = (len(self.names), len(self.classes))
        if self.scores.shape != shape or self.labels.shape != shape[:1] or not all(shape):
            raise ValueError(
                f"{shape[0]} clips and {shape[1]} classes have scores {self.scores.shape} and "
                f"labels {self.labels.shape}"
            )
        if not np.issubdtype(self.labels.dtype, np.integer):
            raise ValueError(f"labels are of type {self.labels.dtype}, not integers")
        if not 0 <= self.labels.min() <= self.labels.max() < shape[1]:
            raise ValueError(f"labels are not all in 0..{shape[1] - 1}")
        if not np.issubdtype(self.scores.dtype, np.floating) or not np.isfinite(self.scores).all():
            raise ValueError("scores are not all finite numbers")
        if len({*self.names}) < len(self.names):
            raise ValueError("names of clips are not all different")

    @property
    def hits(self) -> Bool[np.ndarray, " N"]:
        """Whether the best score is that of the true class, alone."""
        return top1_hits(self.scores, self.labels)


def probabilities(scores: Float[np.ndarray, "*N K"]) -> Float[np.ndarray, "*N K"]:
    """Softmax of scores: exp(s_k) / sum_j exp(s_j)."""
    exponents = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def save(scores: Scores, path: Path) -> None:
    """Writes the arrays `scores`, `labels`, `names` and `classes`, and `protocol` as JSON text."""
    np.savez(
        path,
        scores=scores.scores,
        labels=scores.labels,
        names=np.array(scores.names),
        classes=np.array(scores.classes),
        protocol=np.array(json.dumps(dict(scores.protocol))),
    )


def load(path: Path) -> Scores:
    """Reads what `save` wrote.

    Raises:
      ValueError: no such file, or one of something else; in one line with its path.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; evaluation writes scores.npz beside its report")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            found = {field.name: file[field.name] for field in dataclasses.fields(Scores)}
        protocol = json.loads(str(found["protocol"]))
        if not isinstance(protocol, dict):
            raise ValueError("protocol is not an object")
        return Scores(
            found["scores"],
            found["labels"],
            tuple(map(str, found["names"])),
            tuple(map(str, found["classes"])),
            protocol,
        )
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OSError,
        EOFError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not the scores of an evaluation ({reason})") from error


def matched(runs: Sequence[Scores]) -> list[Scores]:
    """The same clips in the order of the first run, whatever their order was.

    Raises:
      ValueError: classes, clips or labels that differ from the first run's, which are named; runs
        are counted from 1.
    """
    first, found = runs[0], [runs[0]]
    for number, other in enumerate(runs[1:], 2):
        _check_same("classes", number, first.classes, other.classes)
        _check_same("clips", number, first.names, other.names)
        places = {name: place for place, name in enumerate(other.names)}
        order = [places[name] for name in first.names]
        wrong = np.flatnonzero(first.labels != other.labels[order])
        if len(wrong):
            names = [first.names[place] for place in wrong]
            raise ValueError(f"scores {number}: other labels than in scores 1: {_some(names)}")
        scores, labels = other.scores[order], other.labels[order]
        found.append(dataclasses.replace(other, scores=scores, labels=labels, names=first.names))
    return found


def _check_same(kind: str, number: int, first: Sequence[str], other: Sequence[str]) -> None:
    here, there = {*first}, {*other}
    faults = [
        f"{len(names)} {kind} only in scores {where}: {_some(names)}"
        for where, names in (
            (1, [name for name in first if name not in there]),
            (number, [name for name in other if name not in here]),
        )
        if names
    ]
    if kind == "classes" and not faults and first != other:
        faults = [f"scores {number}: other order of classes than in scores 1"]
    if faults:
        raise ValueError("; ".join(faults))


def fuse(runs: Sequence[Scores], weights: Sequence[float]) -> Scores:
    """Weighted mean of scores before the softmax, as Temporal Segment Networks fuse streams.

    They weigh RGB : flow as 1 : 1.5. Of the protocols each value is kept, those that differ side by
    side.

    Raises:
      ValueError: not as many weights as scores, weights below 0 or all 0, or scores that do not
        match (`matched`).
    """
    if len(weights) != len(runs):
        raise ValueError(f"{len(runs)} scores and {len(weights)} weights: give one weight for each")
    if not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
        given = ", ".join(f"{weight:g}" for weight in weights)
        raise ValueError(f"weights {given}: at least 0, finite and not all 0")
    runs = matched(runs)
    total = np.average([run.scores for run in runs], axis=0, weights=weights)
    protocols = [run.protocol for run in runs]
    # Those that a report shows, whoever wrote the scores.
    keys = dict.fromkeys(["dataset", "split", "protocol", *itertools.chain(*protocols)])
    protocol = {key: _joined([of_one.get(key) for of_one in protocols]) for key in keys}
    return dataclasses.replace(runs[0], scores=total, protocol=protocol | {"weights": [*weights]})


def _joined(values: Sequence[Any]) -> Any:
    values = ["-" if value is None else value for value in values]
    same = all(value == values[0] for value in values)
    return values[0] if same else " + ".join(map(str, values))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more
