"""Weights out: one stream as safetensors in the names of PyTorch's models."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stpyramid_jax.extras import extra
from stpyramid_jax.models.pretrained.formats import written_whole
from stpyramid_jax.models.pretrained.names import DIALECTS
from stpyramid_jax.models.pretrained.translation import to_file
from stpyramid_jax.models.pretrained.weights import weights_of


def save_weights(path: str | Path, variables: Mapping[str, Any], backbone: str) -> None:
    """Writes one stream in torchvision's names and layouts, or Cadene's for BN-Inception.

    torchvision's model loads the file strictly if the stream has the head too, else with
    `strict=False`. The metadata names the backbone and the units, which `load_weights` reads again.
    A file that is there is replaced, once the new one is whole.

    Args:
      path: of the file, `.safetensors`.
      variables: `params`, and where there are any `batch_stats` and `units`, of the stream alone.
      backbone: a name of `BACKBONES`.

    Raises:
      ValueError: the backbone has no such names, the variables are not its own, or the file cannot
        be written.
    """
    with extra("interop"):
        from safetensors.numpy import save_file

    path, weights = Path(path), weights_of(variables, "the stream")
    dialect = next((dialect for dialect in DIALECTS if dialect.backbone == backbone), None)
    if dialect is None:
        raise ValueError(f"export {path}: {backbone} is no network of torchvision or Cadene")
    try:
        arrays = to_file(weights.arrays, dialect)
    except ValueError as error:
        raise ValueError(f"export {path}: {error}") from error
    metadata = {"format": "pt", "backbone": backbone, "names": dialect.source}
    if weights.units:
        metadata["units"] = json.dumps(dataclasses.asdict(weights.units))
    try:
        with written_whole(path) as part:
            save_file(arrays, part, metadata)
    except OSError as error:
        raise ValueError(f"export {path}: not written ({error})") from error
