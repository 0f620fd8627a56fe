"""Weights of one backbone, from a file or a known name, in the terms of this package."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from stpyramid_jax.models.backbones import Units
from stpyramid_jax.models.pretrained.formats import read_arrays
from stpyramid_jax.models.pretrained.public import PUBLIC, fetch
from stpyramid_jax.models.pretrained.translation import from_file, recognize, shortened


class Weights(NamedTuple):
    """Weights of one backbone.

    Attributes:
      source: where they are from, for the report.
      arrays: float32, by path within the backbone: `conv1/kernel` (HWIO, RGB), `norm1/scale`; batch
        statistics are `norm1/mean` and `norm1/var`.
      units: what they expect of the input; None where that is not known.
      notes: lines on what was left out or not exact.
    """

    source: str
    arrays: dict[str, np.ndarray]
    units: Units | None
    notes: tuple[str, ...] = ()


def load_weights(source: str | Path, backbone: str) -> Weights:
    """Weights for a backbone from a file, or from a public one by its name in `PUBLIC`.

    Raises:
      ValueError: there is no such file or name, it cannot be fetched or read, is of another
        backbone, or holds what are no finite floating-point numbers.
    """
    known = PUBLIC.get(str(source))
    if known and known.backbone != backbone:
        raise ValueError(
            f"weights {source}: of {known.backbone}; the model's backbone is {backbone}"
        )
    path = fetch(known) if known else Path(source)
    if not known and not path.exists():
        names = [name for name, file in PUBLIC.items() if file.backbone == backbone]
        raise ValueError(
            f"weights {source}: no such file, and no known name for {backbone} "
            f"({', '.join(names) or 'there are none'})"
        )
    file = read_arrays(path)
    try:
        dialect = recognize(file.arrays, backbone)
        arrays, unexpected = from_file(file.arrays, dialect)
        notes = [f"{len(unexpected)} unexpected: {shortened(unexpected)}"] if unexpected else []
        rounded = [name for name, array in arrays.items() if not _fits(array)]
        if rounded:
            notes.append(f"{len(rounded)} arrays rounded to float32: {shortened(rounded)}")
        arrays = {name: _float32(name, array) for name, array in arrays.items()}
        units = _units(file.metadata) or dialect.units
    except ValueError as error:
        raise ValueError(f"weights {source}: {error}") from error
    return Weights(str(source), arrays, units, tuple(notes))


def weights_of(variables: Mapping[str, Any], source: str) -> Weights:
    """Weights that one stream has, from its `params`, `batch_stats` and `units`, where it has them.

    `variables` are those of the stream alone: {"params": {"conv1": ...}, ...}.
    """
    arrays = {}
    for collection in ("params", "batch_stats"):
        arrays |= dict(leaves(variables.get(collection, {})))
    units = variables.get("units")
    if units is not None:
        units = Units(*(tuple(np.asarray(units[key]).tolist()) for key in ("mean", "scale")))
    arrays = {path: np.asarray(array) for path, array in arrays.items()}
    return Weights(source, arrays, units)


def leaves(tree: Mapping[str, Any], prefix: str = ""):
    """(path, array) of a nested dictionary, such as ("conv1/kernel", ...)."""
    for name, child in tree.items():
        if isinstance(child, Mapping):
            yield from leaves(child, f"{prefix}{name}/")
        else:
            yield prefix + name, child


def _units(metadata: Mapping[str, str]) -> Units | None:
    """Units that a file of `save_weights` carries."""
    if "units" not in metadata:
        return None
    try:
        units = json.loads(metadata["units"])
        mean, scale = (tuple(float(x) for x in units[key]) for key in ("mean", "scale"))
        if len(mean) != 3 or len(scale) != 3 or not np.isfinite((mean, scale)).all():
            raise ValueError("three finite numbers each")
        if min(scale) <= 0:
            raise ValueError("a scale is positive")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"its units {metadata['units'][:99]!r} are not as written here") from error
    return Units(mean, scale)


def _fits(array: np.ndarray) -> bool:
    """Whether float32 holds an array exactly."""
    with np.errstate(over="ignore"):
        return array.dtype != np.float64 or bool((array.astype(np.float32) == array).all())


def _float32(name: str, array: np.ndarray) -> np.ndarray:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} is {array.dtype}; weights are floating-point numbers")
    with np.errstate(over="ignore"):
        array = np.asarray(array, np.float32, order="C")
    wrong = array.size - np.count_nonzero(np.isfinite(array))
    if wrong:
        raise ValueError(f"{name}: {wrong} of {array.size} values are not finite")
    if name.endswith("/var") and array.size and array.min() < 0:
        raise ValueError(f"{name}: {array.min():g} is among its values; variances are not negative")
    return array
