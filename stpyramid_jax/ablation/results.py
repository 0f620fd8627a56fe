"""What runs have left: whether they can be taken up, have ended, and belong into one table."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stpyramid_jax import disk
from stpyramid_jax.ablation.rows import ROWS
from stpyramid_jax.ablation.table import Result, protocol_of
from stpyramid_jax.experiment import completed, read_record

# Keys and sections of a config that do not change a result. Those that, beside them, do not change
# a network. And those that, beside them, rows differ in: form, seed, and what streams begin from.
_PLACE = (
    "data.dir",
    "input.threads",
    "evaluation.batch_size",
    "training.log_every",
    "profile",
    "mesh",
)
_TEST = (*_PLACE, "input.test_tau", "input.test_scale", "evaluation")
_ROW = (
    *_TEST,
    *(f"model.{field}" for field in ROWS["D"].model),
    "input.streams",
    "input.snippets",
    "seed",
    "training.weights",
)


@dataclasses.dataclass(frozen=True)
class Ended:
    """What `result.json` of a run holds: its `config.json`, and the `summary.json` of its test."""

    run: Mapping[str, Any]
    summary: Mapping[str, Any]


def run_folder(workdir: Path, row: str, seed: int) -> Path:
    """The workdir of a run."""
    return workdir / row / f"seed{seed}"


def check_trained(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuses a run of another training: its network would be given out as this config's.

    Args:
      record: what `config.json` is to hold.

    Raises:
      ValueError: the keys that differ, with both values.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    there = _settings(read_record(path), _TEST)
    differing = [
        f"{key} {there.get(key)!r} there, {value!r} here"
        for key, value in _settings(record, _TEST).items()
        if there.get(key) != value
    ]
    if differing:
        raise ValueError(
            f"{folder}: trained otherwise ({'; '.join(differing)}); give another --workdir"
        )


def has_ended(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether there is a result of this very config, wherever it was computed."""
    ended = _read(folder)
    return ended is not None and _settings(ended.run, _PLACE) == _settings(record, _PLACE)


def write_result(folder: Path, report: Path) -> None:
    """Writes `result.json`, which marks the run as ended: what `report` says, and of what run."""
    paths = (folder / "config.json", report / "summary.json")
    ended = Ended(*(json.loads(path.read_text()) for path in paths))
    text = json.dumps(dataclasses.asdict(ended), indent=2) + "\n"
    disk.write(folder / "result.json", text.encode())


def results(workdir: Path, seeds: Sequence[int], latest: Path) -> list[Result]:
    """Results of all rows with these seeds that were tested as the run in `latest` was."""
    last = _read(latest)
    assert last is not None  # whose end is what calls for the tables
    found = []
    for row in ROWS:
        for seed in seeds:
            ended = _read(run_folder(workdir, row, seed))
            if ended and protocol_of(ended.summary) == protocol_of(last.summary):
                otherwise = _settings(ended.run, _ROW) != _settings(last.run, _ROW)
                found.append(Result(row, seed, ended.summary, otherwise))
    return found


def _read(folder: Path) -> Ended | None:
    """What `write_result` wrote, or None where the run did not end yet."""
    path = folder / "result.json"
    try:
        ended = Ended(**json.loads(path.read_text())) if path.is_file() else None
        return ended and dataclasses.replace(ended, run=completed(ended.run))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}); remove it to evaluate again") from error


def _settings(record: Mapping[str, Any], less: Sequence[str]) -> dict[str, Any]:
    """Values of a run's record by `section.key`, less some keys and whole sections."""
    flat = {}
    for section, values in record.items():
        if isinstance(values, Mapping):
            flat |= {f"{section}.{key}": value for key, value in values.items()}
        else:
            flat[section] = values
    return {
        key: value
        for key, value in flat.items()
        if key not in less and key.partition(".")[0] not in less
    }
