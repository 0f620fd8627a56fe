"""The tables of the ablation: means and spreads over seeds beside the paper's column."""

import csv
import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stpyramid_jax.ablation.rows import TABLES, Row

_PROTOCOL = (
    "dataset",
    "digest",
    "split",
    "num_clips",
    "protocol",
    "crop",
    "test_scale",
    "test_tau",
    "motion",
)


@dataclasses.dataclass(frozen=True)
class Result:
    """The evaluation of a run.

    Attributes:
      row: by its name.
      summary: what `summary.json` holds.
      otherwise: whether the run was trained by another config than the last one.
    """

    row: str
    seed: int
    summary: Mapping[str, Any]
    otherwise: bool = False


@dataclasses.dataclass(frozen=True)
class Line:
    """A row as measured; accuracies are parts of one, mean over classes.

    Attributes:
      table, row, label: as in `TABLES`.
      n: how many seeds were run.
      mean, std: over seeds; std is that of a sample, None of a single seed.
      gain, gain_std: over the line above, of the seeds that both have; None where there is none.
      paper: of the paper's row.
      otherwise: some of its runs were trained by another config than the last one.
      accuracies: by seed.
    """

    table: str
    row: str
    label: str
    n: int
    mean: float
    std: float | None
    gain: float | None
    gain_std: float | None
    paper: float
    otherwise: bool
    accuracies: Mapping[int, float]


def protocol_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What an accuracy means; those in one table must agree in it."""
    return {key: summary.get(key) for key in _PROTOCOL}


def write_tables(workdir: Path, results: Sequence[Result]) -> str:
    """Writes ablation.json, ablation.csv and ablation.txt; returns the last one's text.

    Args:
      results: at least one, all of one protocol.
    """
    found, protocol = lines(results), protocol_of(results[0].summary)
    seeds = sorted({result.seed for result in results})
    rows = [dataclasses.asdict(line) for line in found]
    whole = {"protocol": protocol, "seeds": seeds, "rows": rows}
    (workdir / "ablation.json").write_text(json.dumps(whole, indent=2) + "\n")
    with (workdir / "ablation.csv").open("w", newline="") as file:
        columns = [field.name for field in dataclasses.fields(Line) if field.name != "accuracies"]
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()})
    text = _text(found, protocol, seeds)
    (workdir / "ablation.txt").write_text(text + "\n")
    return text


def lines(results: Sequence[Result]) -> list[Line]:
    """The rows that were run, in the order of the tables."""
    found = []
    for title, rows in TABLES.items():
        above: Mapping[int, float] = {}
        for row in rows:
            own = [result for result in results if result.row == row.name]
            if own:
                found.append(_line(title, row, own, above))
                above = found[-1].accuracies
    return found


def _line(title: str, row: Row, results: Sequence[Result], above: Mapping[int, float]) -> Line:
    """Of a row's results, beside accuracies by seed of the line above."""
    accuracies = {result.seed: result.summary["mean_class_accuracy"] for result in results}
    own = [*accuracies.values()]
    gains = [accuracies[seed] - above[seed] for seed in accuracies if seed in above]
    return Line(
        table=title,
        row=row.name,
        label=row.label,
        n=len(own),
        mean=float(np.mean(own)),
        std=_std(own),
        gain=float(np.mean(gains)) if gains else None,
        gain_std=_std(gains),
        paper=round(row.paper / 100, 4),
        otherwise=any(result.otherwise for result in results),
        accuracies=accuracies,
    )


def _text(found: Sequence[Line], protocol: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """The tables for a terminal, in %."""
    width = max(len(line.label) for line in found)
    header = f"  {'':{width}} {'mean':>6} {'std':>5} {'gain':>6} {'std':>5} {'n':>3} {'paper':>6}"
    told = []
    for title, rows in itertools.groupby(found, key=lambda line: line.table):
        told += [title, header]
        for line in rows:
            gain = f"{_percent(line.gain, '+'):>6} {_percent(line.gain_std):>5}"
            cells = f"{_percent(line.mean):>6} {_percent(line.std):>5} {gain} {line.n:>3}"
            mark = " *" if line.otherwise else ""
            told.append(f"  {line.label:{width}} {cells} {_percent(line.paper):>6}{mark}")
    told += [
        f"mean class accuracy in % on {protocol['num_clips']} test clips of {protocol['dataset']} "
        f"{protocol['split']}, {protocol['protocol']}, crop {protocol['crop']}, seeds "
        f"{', '.join(map(str, seeds))};",
        "std: of a sample, over seeds; gain: over the line above, same seeds;",
        "paper: UCF101, BN-Inception (the authors' slides)",
    ]
    if any(line.otherwise for line in found):
        told.append("* trained by another config than the last run")
    return "\n".join(told)


def _std(sample: Sequence[float]) -> float | None:
    return float(np.std(sample, ddof=1)) if len(sample) > 1 else None


def _percent(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{100 * value:{sign}.1f}"
