"""ImageNet weights into the streams, with a report of what went where."""

from pathlib import Path
from typing import Any

import numpy as np


def cross_modality(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A first convolution for flow from one for RGB: its mean over RGB, for every channel.

    [h, w, 3, D] -> [h, w, channels, D], not rescaled (cross-modality pre-training of the slides;
    no rescaling as in TSN).
    """
    mean = kernel.mean(axis=2, keepdims=True)
    return np.broadcast_to(mean, (*kernel.shape[:2], channels, kernel.shape[3])).copy()


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays `<layer>/kernel` (HWIO) and `<layer>/bias` of an `.npz`; pickles are not read.

    Raises:
      ValueError: the file is missing or not such an archive.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"weights {path}: no such file")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:
        raise ValueError(f"weights {path}: not an .npz of plain arrays ({error})") from error


def init_backbones(params: Any, arrays: dict[str, np.ndarray]) -> tuple[Any, list[str]]:
    """Puts a backbone's arrays into the streams of a pyramid, `spatial` and `temporal`.

    Args:
      params: of the pyramid; left as they are.
      arrays: by path within the backbone. Those of other layers (a classifier) are not used.

    Returns:
      (new parameters, report): the report has a line for each stream, and one for what was not
      used.

    Raises:
      ValueError: a parameter of a stream has no array, or one of another shape; all are listed.
    """
    params = dict(params)
    used, report, wrong = set(), [], []
    for stream in ("spatial", "temporal"):
        if stream not in params:
            continue
        loaded, adapted = {}, []
        for layer, path, old in _leaves(params[stream]):
            new = arrays.get(path)
            if new is not None and new.shape != old.shape and new.ndim == 4 and new.shape[2] == 3:
                new = cross_modality(new, old.shape[2])
                adapted.append(path)
            if new is None or new.shape != old.shape:
                found = "missing" if new is None else f"{arrays[path].shape}"
                wrong.append(f"{stream}/{path}: {found}, the model has {old.shape}")
                continue
            used.add(path)
            loaded[layer] = new.astype(old.dtype)
        params[stream] = _rebuild(params[stream], loaded)
        note = f", {', '.join(adapted)} averaged over RGB" if adapted else ""
        report.append(f"{stream}: {len(loaded)} arrays loaded{note}")
    if wrong:
        raise ValueError("\n  ".join(["weights do not fit, nothing was loaded:", *wrong]))
    unused = sorted(set(arrays) - used)
    if unused:
        report.append(f"not used: {', '.join(unused)}")
    return params, report


def _leaves(tree: Any, prefix: tuple[str, ...] = ()):
    for name, child in tree.items():
        if hasattr(child, "items"):
            yield from _leaves(child, (*prefix, name))
        else:
            yield (*prefix, name), "/".join((*prefix, name)), child


def _rebuild(tree: Any, leaves: dict[tuple[str, ...], Any], prefix: tuple[str, ...] = ()) -> Any:
    return {
        name: _rebuild(child, leaves, (*prefix, name))
        if hasattr(child, "items")
        else leaves.get((*prefix, name), child)
        for name, child in tree.items()
    }
