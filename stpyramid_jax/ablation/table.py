"""The tables of the ablation: means and spreads over seeds beside the paper's column."""

import csv
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stpyramid_jax.ablation.rows import TABLES

Results = Mapping[tuple[str, int], Mapping[str, Any]]
"""Summaries of evaluations (`summary.json`) by name of the row and seed, of one protocol."""


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
    keys = ("dataset", "digest", "split", "num_clips", "protocol", "crop", "test_scale")
    keys += ("test_tau", "motion")
    return {key: summary.get(key) for key in keys}


def lines(results: Results) -> Iterator[Line]:
    """The rows that were run, in the order of the tables."""
    for title, rows in TABLES.items():
        above: Mapping[int, float] = {}
        for row in rows:
            own = {seed: results[name, seed] for name, seed in results if name == row.name}
            found = {seed: summary["mean_class_accuracy"] for seed, summary in own.items()}
            if not found:
                continue
            gains = [found[seed] - above[seed] for seed in found if seed in above]
            mean, std = _mean_std(list(found.values()))
            gain, gain_std = _mean_std(gains) if gains else (None, None)
            paper = round(row.paper / 100, 4)
            otherwise = any(summary.get("trained_otherwise") for summary in own.values())
            yield Line(
                title,
                row.name,
                row.label,
                len(found),
                mean,
                std,
                gain,
                gain_std,
                paper,
                otherwise,
                found,
            )
            above = found


def write_tables(workdir: Path, results: Results) -> str:
    """Writes ablation.json, ablation.csv and ablation.txt; returns the last one's text."""
    found, text = list(lines(results)), tables_text(results)
    rows = [dataclasses.asdict(line) for line in found]
    seeds = sorted({seed for _, seed in results})
    whole = {"protocol": protocol_of(next(iter(results.values()))), "seeds": seeds, "rows": rows}
    (workdir / "ablation.json").write_text(json.dumps(whole, indent=2) + "\n")
    with (workdir / "ablation.csv").open("w", newline="") as file:
        columns = [field.name for field in dataclasses.fields(Line)][:-1]
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()})
    (workdir / "ablation.txt").write_text(text + "\n")
    return text


def tables_text(results: Results) -> str:
    """The tables for a terminal, in %."""
    found = list(lines(results))
    width = max(len(line.label) for line in found)
    parts, title = [], None
    for line in found:
        if line.table != title:
            title = line.table
            header = f"{'mean':>6} {'std':>5} {'gain':>6} {'std':>5} {'n':>3} {'paper':>6}"
            parts += [title, f"  {'':{width}} {header}"]
        cells = f"{_percent(line.mean):>6} {_percent(line.std):>5} {_percent(line.gain, '+'):>6}"
        cells += f" {_percent(line.gain_std):>5} {line.n:>3} {_percent(line.paper):>6}"
        parts.append(f"  {line.label:{width}} {cells}" + " *" * line.otherwise)
    about = protocol_of(next(iter(results.values())))
    seeds = ", ".join(map(str, sorted({seed for _, seed in results})))
    return "\n".join(
        [
            *parts,
            f"mean class accuracy in % on {about['num_clips']} test clips of {about['dataset']} "
            f"{about['split']}, {about['protocol']}, crop {about['crop']}, seeds {seeds};",
            "std: of a sample, over seeds; gain: over the line above, same seeds;",
            "paper: UCF101, BN-Inception (the authors' slides)",
            *["* trained by another config than the last run"] * any(x.otherwise for x in found),
        ]
    )


def _mean_std(values: list[float]) -> tuple[float, float | None]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def _percent(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{100 * value:{sign}.1f}"
