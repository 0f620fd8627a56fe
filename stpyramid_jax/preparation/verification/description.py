"""The `dataset.json` of a complete prepared folder, each statement checked against the others.

Nothing here trusts the file: what cannot be so comes as a ValueError, a line for each fault.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from stpyramid_jax.preparation.writing.output import digest_of
from stpyramid_jax.records import FAMILIES, FORMAT, shard_file

KEYS = {
    **dict.fromkeys(("name", "digest"), str),
    **dict.fromkeys(("classes", "splits", "families"), list),
    **dict.fromkeys(("parameters", "files"), dict),
    **dict.fromkeys(("videos", "errors", "rgb_frames", "flow_fields", "shards"), int),
}
"""Keys of `dataset.json` and the types of their values."""


def read_dataset(folder: Path) -> dict:
    """Content of `dataset.json`.

    Raises:
      ValueError: the folder is not complete, or this is not what a preparation writes.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        raise ValueError(
            f"{folder}: no dataset.json, so no complete data set; run the command that prepares "
            "it (it continues where it stopped)"
        )
    try:
        dataset = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"dataset.json: not JSON ({error})") from None
    found = dataset.get("format") if isinstance(dataset, dict) else None
    if found != FORMAT:
        raise ValueError(f"dataset.json: format is {found!r:.99}, this version reads {FORMAT}")
    refuse(
        "dataset.json",
        (
            f"{key} is of type {type(dataset.get(key)).__name__}, not {kind.__name__}"
            for key, kind in KEYS.items()
            if type(dataset.get(key)) is not kind
        ),
    )
    refuse("dataset.json", [*_wrong_values(dataset), *_wrong_files(dataset["files"])])
    listed = {"index.npz", "videos.csv", "errors.csv", *shard_files(dataset)}
    absent = sorted(listed - dataset["files"].keys())
    refuse("dataset.json", (f"{name!r:.99} is not among the files" for name in absent))
    if digest_of(dataset["parameters"], dataset["files"]) != dataset["digest"]:
        raise ValueError("dataset.json: digest is not that of its parameters and files")
    return dataset


def _wrong_values(dataset: Mapping) -> list[str]:
    faults = [
        f"{key} are not different names: {names!r:.99}"
        for key, names in ((key, dataset[key]) for key in ("classes", "splits", "families"))
        if not all(isinstance(name, str) for name in names) or len({*names}) < len(names)
    ]
    families, size = dataset["families"], dataset["parameters"].get("size")
    if families[:1] != ["rgb"] or any(family not in FAMILIES for family in families):
        faults.append(f"families are {families!r:.99}, not rgb and others of {FAMILIES}")
    if not (isinstance(size, list) and [type(side) for side in size] == [int, int]):
        faults.append(f"parameters.size is {size!r:.99}, not [width, height]")
    flow = dataset["parameters"].get("flow")
    bound = flow.get("bound") if isinstance(flow, dict) else None
    if not (isinstance(bound, int | float) and 0 < bound < math.inf):
        faults.append(f"parameters.flow.bound is {bound!r:.99}, not a number of pixels")
    if not 1 <= dataset["shards"] <= len(dataset["files"]):
        faults.append(f"shards are {dataset['shards']!r:.99}, files are {len(dataset['files'])}")
    return faults


def _wrong_files(files: Mapping) -> list[str]:
    return [
        f"not a file with its size and SHA-256: {name!r:.99}: {entry!r:.199}"
        for name, entry in files.items()
        if Path(name).name != name
        or not name.isprintable()
        or not isinstance(entry, dict)
        or type(entry.get("bytes")) is not int
        or not isinstance(entry.get("sha256"), str)
    ]


def shard_files(dataset: Mapping) -> dict[str, tuple[str, int]]:
    """Family and number of every shard, by the name of its file."""
    name, count = dataset["name"], dataset["shards"]
    return {
        shard_file(name, family, shard, count): (family, shard)
        for family in dataset["families"]
        for shard in range(count)
    }


def refuse(name: str, faults: Iterable[str]) -> None:
    if lines := [f"{name}: {fault}" for fault in faults]:
        raise ValueError("\n".join(lines))
