"""From a file's names and layouts to ours and back, by the descriptions of `names`."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from stpyramid_jax.models.pretrained.names import DIALECTS, STEPS, Dialect, Layer

FIRST_KERNEL = re.compile(r"conv1(_1)?/kernel")
"""Path of the kernel that sees the input, in every backbone."""

HEAD = re.compile(r"(fc|fc6|fc7|fc8|conv10)/(kernel|bias)")
"""Paths of the layers behind the last map."""

# What wrappers put before the names of the network that they wrap.
_PREFIX = re.compile(r"^(module\.|base_model\.|backbone\.)+")
# Of all layers of a file and a dialect, this part must be common for the file to be one of it.
_ALIKE = 0.7
_MAP = 7  # side of the map that a flat layer takes


def recognize(names: Iterable[str], backbone: str) -> Dialect:
    """The dialect whose layers are most like those that a file's arrays belong to.

    Raises:
      ValueError: it is one of another backbone, or none is like it.
    """
    names = [_PREFIX.sub("", name) for name in names]
    found = {re.sub(r"[.:/][^.:/]*$", "", name) for name in names}

    def likeness(dialect):
        layers = {layer.theirs for layer in dialect.layers}
        return len(layers & found) / len(layers | found), dialect.backbone == backbone

    best = max(DIALECTS, key=likeness)
    if likeness(best)[0] < _ALIKE:
        raise ValueError(
            f"of no network known here; the model's backbone is {backbone}, the file's arrays are "
            f"{shortened(names)}"
        )
    if best.backbone != backbone:
        raise ValueError(
            f"looks like {best.backbone} (names of {best.source}); the model's backbone is "
            f"{backbone}"
        )
    return best


def from_file(
    arrays: Mapping[str, np.ndarray], dialect: Dialect
) -> tuple[dict[str, np.ndarray], list[str]]:
    """(arrays by our paths in our layout, names that have no path) of a file in a dialect.

    An array of an impossible shape stays as it is.

    Raises:
      ValueError: two arrays are the same parameter.
    """
    table, ours, unexpected = _table(dialect), {}, []
    for name, array in arrays.items():
        if entry := table.get(_PREFIX.sub("", name)):
            layer, field = entry
            path = f"{layer.ours}/{field}"
            if path in ours:
                raise ValueError(f"{name} is there twice, with different prefixes")
            array = array if dialect.ours else _to_ours(array, layer.kind, field)
            ours[path] = _flip(array, path, dialect)
        elif not name.endswith(STEPS):
            unexpected.append(name)
    return ours, sorted(unexpected)


def to_file(arrays: Mapping[str, np.ndarray], dialect: Dialect) -> dict[str, np.ndarray]:
    """Inverse of `from_file` for PyTorch's dialects, with the counts of steps that PyTorch wants.

    Raises:
      ValueError: an array has no name in the dialect, or a layer other than the head no array.
    """
    table = {
        f"{layer.ours}/{field}": (name, layer, field)
        for name, (layer, field) in _table(dialect).items()
    }
    strange = sorted(set(arrays) - set(table))
    layers = {path.rpartition("/")[0] for path in arrays}
    lacking = [
        layer.ours
        for layer in dialect.layers
        if layer.ours not in layers and not HEAD.fullmatch(f"{layer.ours}/kernel")
    ]
    if strange or lacking:
        raise ValueError(
            f"not the arrays of {dialect.backbone}: {shortened(strange) or 'none'} unexpected, "
            f"{shortened(lacking) or 'none'} missing"
        )
    theirs = {}
    for path, array in arrays.items():
        name, layer, field = table[path]
        array = _to_theirs(_flip(array, path, dialect), layer.kind, field)
        theirs[name] = np.asarray(array, order="C")  # safetensors writes others in disorder
        if field == "mean":
            theirs[layer.theirs + STEPS] = np.zeros((), np.int64)
    return theirs


def shortened(names: Iterable[str], limit: int = 3) -> str:
    """The first few of names, and how many more there are, in one line whatever they are."""
    names = sorted(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    first = (name[:80] if name.isprintable() else ascii(name)[:80] for name in names[:limit])
    return ", ".join(first) + more


def _table(dialect: Dialect) -> dict[str, tuple[Layer, str]]:
    """(layer, field here) by the names of a dialect's arrays."""
    return {
        layer.theirs + suffix: (layer, field)
        for layer in dialect.layers
        for suffix, field in dialect.suffixes["norm" if layer.kind == "norm" else "weights"].items()
    }


def _flip(array: np.ndarray, path: str, dialect: Dialect) -> np.ndarray:
    """A first kernel [h, w, 3, D] from BGR to RGB, or back."""
    bgr = dialect.bgr and FIRST_KERNEL.fullmatch(path) and array.ndim == 4 and array.shape[2] == 3
    return array[:, :, ::-1] if bgr else array


def _to_ours(array: np.ndarray, kind: str, field: str) -> np.ndarray:
    if field != "kernel":  # files that are old have vectors [1, C] or [1, C, 1, 1]
        return array.reshape(-1) if array.size == max(array.shape, default=0) else array
    if kind == "dense" and array.ndim == 4 and array.shape[:2] == (1, 1):  # Caffe before 2014
        array = array[0, 0]
    if kind == "flat" and array.ndim > 1 and array.shape[-1] % _MAP**2 == 0:
        array = array.reshape(array.shape[-2], -1, _MAP, _MAP)
    if array.ndim == 2:
        return array.T
    if array.ndim != 4:
        return array
    array = array.transpose(2, 3, 1, 0)
    return array if kind == "conv" else array.reshape(-1, array.shape[-1])


def _to_theirs(array: np.ndarray, kind: str, field: str) -> np.ndarray:
    if field != "kernel":
        return array
    if kind == "conv":
        return array.transpose(3, 2, 0, 1)
    if kind == "flat":
        array = array.reshape(_MAP, _MAP, -1, array.shape[-1]).transpose(2, 0, 1, 3)
    return array.reshape(-1, array.shape[-1]).T
