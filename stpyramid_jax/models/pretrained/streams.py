"""Weights into the streams of a pyramid, by rules over parameter paths, with a report.

Cross-modality pre-training (slides; TSN, section 3.2): the flow stream starts from weights for RGB
whose first kernel is averaged over RGB and repeated for each of its channels, without rescaling.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from stpyramid_jax.models.pretrained.translation import FIRST_KERNEL, HEAD, shortened
from stpyramid_jax.models.pretrained.weights import Weights, leaves

STREAMS = ("spatial", "temporal")

INPUTS = {"spatial": "rgb", "temporal": "flow"}
"""The input of each stream, under whose name the collection `units` has what is expected of it
(`flow` whatever the stream's motion is)."""

RULES = {
    "first kernel": FIRST_KERNEL,
    "head": HEAD,
    "copy": re.compile(
        rf"(?!({FIRST_KERNEL.pattern}|{HEAD.pattern})$).+/(kernel|bias|scale|mean|var)"
    ),
}
"""What becomes of a parameter or batch statistic, by its path within the backbone.

The first kernel is adapted to the stream's channels, the head is left out, the rest copied.
"""


def rule_of(path: str) -> str:
    """The one rule that covers a path.

    Raises:
      ValueError: none does, or more than one.
    """
    names = [name for name, pattern in RULES.items() if pattern.fullmatch(path)]
    if len(names) != 1:
        raise ValueError(
            f"{path}: covered by {len(names)} rules of weights ({', '.join(names) or 'none'}), "
            "must be by one; see RULES in models/pretrained/streams.py"
        )
    return names[0]


def cross_modality(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A first convolution for motion from one for RGB: its mean over RGB, for every channel.

    [h, w, 3, D] -> [h, w, channels, D], not rescaled.
    """
    mean = kernel.mean(axis=2, keepdims=True)
    return np.broadcast_to(mean, (*kernel.shape[:2], channels, kernel.shape[3])).copy()


def weights_per_stream(spec: str, streams: tuple[str, ...] = STREAMS) -> dict[str, str]:
    """Sources of weights by stream from a config's text.

    `""` is none, `SOURCE` is for all of a model's `streams`, and `spatial=SOURCE,temporal=SOURCE`
    (or one of them) for those that it names. A source may hold `=` and `,`: only a comma before
    `spatial=` or `temporal=` divides.

    Raises:
      ValueError: a stream is named twice, has no source, or is not of the model.
    """
    stream = "|".join(STREAMS)
    if not re.match(rf"({stream})=", spec):
        return dict.fromkeys(streams, spec) if spec else {}
    sources = {}
    for part in re.split(rf",(?=(?:{stream})=)", spec):
        name, _, source = part.partition("=")
        if name in sources or not source:
            reason = "is named twice" if name in sources else "has no source"
            raise ValueError(f"training.weights={spec!r}: {name} {reason}")
        if name not in streams:
            raise ValueError(
                f"training.weights={spec!r}: the model has no stream {name}, only "
                f"{' and '.join(streams)}"
            )
        sources[name] = source
    return sources


def init_streams(
    variables: Mapping[str, Any], weights: Mapping[str, Weights]
) -> tuple[dict[str, Any], list[str]]:
    """Puts weights into the streams of a pyramid.

    Args:
      variables: of the pyramid (`params` and `batch_stats` by stream, `units` by input); left as
        they are.
      weights: by stream. A stream without stays as it is.

    Returns:
      (new variables, report): the report says for each stream what was loaded and adapted, and for
      each source what of it was not used.

    Raises:
      ValueError: a parameter or statistic of a stream has no array, or one of another shape (all
        are listed), is covered by no rule, or the model lacks a stream. Nothing is loaded then.
    """
    new = {name: dict(collection) for name, collection in variables.items()}
    report, notes, wrong = [], {}, []
    for stream, given in weights.items():
        if stream not in new["params"]:
            raise ValueError(f"weights {given.source}: the model has no stream {stream}")
        trees = {
            name: new[name][stream]
            for name in ("params", "batch_stats")
            if stream in new.get(name, {})
        }
        found, adapted = {}, ""
        for path, old in (leaf for tree in trees.values() for leaf in leaves(tree)):
            rule, shape, held = rule_of(path), np.shape(old), given.arrays.get(path)
            if rule == "head":
                continue
            array = held
            if rule == "first kernel" and held is not None and _is_rgb(held, shape):
                array = cross_modality(held, shape[2])
                adapted = f", {path} averaged over RGB for {shape[2]} channels"
            if array is None or array.shape != shape:
                has = "missing" if held is None else str(held.shape)
                wrong.append((f"{stream}/{path}", has, str(shape)))
            else:
                found[path] = array
        for name, tree in trees.items():
            new[name][stream] = _replaced(tree, found)
        if given.units and INPUTS[stream] in new.get("units", {}):
            units = dataclasses.asdict(given.units)
            new["units"][INPUTS[stream]] = {k: np.asarray(v, np.float32) for k, v in units.items()}
        report.append(f"{stream}: {len(found)} arrays loaded from {given.source}{adapted}")
        notes |= {f"{given.source}: {note}": None for note in _notes(given, set(found))}
    if wrong:
        raise ValueError(_table(wrong))
    fresh = [stream for stream in STREAMS if stream in new["params"] and stream not in weights]
    report += [f"{stream}: no weights given, starts fresh" for stream in fresh]
    return new, report + list(notes)


def _is_rgb(kernel: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether a kernel is one for RGB and the stream's, of another number of channels, is not."""
    return kernel.shape == (*shape[:2], 3, *shape[3:]) != shape


def _notes(given: Weights, loaded: set[str]) -> list[str]:
    """What of a source was not used."""
    unused = set(given.arrays) - loaded
    head = {path for path in unused if HEAD.fullmatch(path)}
    kinds = {"not used (head)": head, "unexpected": unused - head}
    lines = [f"{len(paths)} {kind}: {shortened(paths)}" for kind, paths in kinds.items() if paths]
    return [*lines, *given.notes]


def _table(wrong: list[tuple[str, str, str]]) -> str:
    """One line for each array that does not fit, in columns."""
    rows = [("array", "file has", "model needs"), *wrong]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n  ".join(["weights do not fit, nothing was loaded:", *lines])


def _replaced(tree: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dictionary with new leaves, by path, where there are any."""
    return {
        name: _replaced(child, new, f"{prefix}{name}/")
        if isinstance(child, Mapping)
        else new.get(prefix + name, child)
        for name, child in tree.items()
    }
