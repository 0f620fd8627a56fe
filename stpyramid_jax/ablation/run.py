"""Trains and evaluates the rows of the ablation over seeds, each in a workdir of its own."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from stpyramid_jax.ablation.rows import ROWS, Row, choose_rows, choose_seeds
from stpyramid_jax.ablation.table import Results, protocol_of, write_tables
from stpyramid_jax.evaluation import protocol
from stpyramid_jax.experiment import Experiment, build_experiment, run_record
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.models.pretrained import weights_per_stream
from stpyramid_jax.progress import say
from stpyramid_jax.training import loop
from stpyramid_jax.training.interruption import Interrupted, interruption


def ablate(
    config: Mapping[str, Any],
    shards: Shards,
    workdir: Path,
    seeds: Sequence[str],
    names: Sequence[str] = (),
) -> str:
    """Runs rows of the ablation and returns the tables of all that the workdir holds.

    A run lies in `<row>/seed<seed>`. One that ended with the same config is not repeated, one that
    was interrupted goes on. After each the tables are written to the workdir (`write_tables`).

    Args:
      config: of an experiment; each row replaces its seed and the fields of `Row.model`. In
        `training.weights`, `{seed}` stands for the seed, so that each can have streams of its own.
      seeds: as text.
      names: of rows to run; all where there are none.

    Raises:
      ValueError: an unknown row or seed, or as `loop.train` and `protocol.evaluate`.
      Interrupted: asked to stop; the run that was under way has written a checkpoint.
    """
    numbers = choose_seeds(seeds)
    plan = {
        (row.name, seed): row_experiment(config, row, seed, len(shards.classes))
        for seed in numbers
        for row in choose_rows(names)
    }
    text = ""
    with interruption() as requested:
        for number, (key, experiment) in enumerate(plan.items(), start=1):
            folder = _folder(workdir, key)
            if requested(number):
                raise Interrupted(f"stopped before {folder}: run the same again")
            record = run_record(experiment, shards)
            if (_read_result(folder) or {}).get("run") != record:
                say(f"run {number} of {len(plan)}: {folder}")
                loop.train(experiment, shards, folder, protocol.validator(experiment, shards))
                report = protocol.evaluate(experiment, shards, folder)
                if jax.process_index() == 0:
                    _write_result(folder, report)
            if jax.process_index() == 0:
                text = write_tables(workdir, _results(workdir, numbers, key))
    return text


def row_experiment(config: Mapping[str, Any], row: Row, seed: int, num_classes: int) -> Experiment:
    """The experiment of a row and a seed; weights are given to the streams that it has.

    Raises:
      ValueError: as `build_experiment`.
    """
    given = {**config, "seed": seed, "model": {**config["model"], **row.model}}
    experiment = build_experiment(given, num_classes)
    used = {"spatial": experiment.model.uses_rgb, "temporal": experiment.model.uses_flow}
    sources = weights_per_stream(experiment.training.weights.replace("{seed}", str(seed)))
    weights = ",".join(f"{stream}={source}" for stream, source in sources.items() if used[stream])
    training = dataclasses.replace(experiment.training, weights=weights)
    return dataclasses.replace(experiment, training=training)


def _write_result(folder: Path, report: Path) -> None:
    """Writes the run's accuracy beside its config, which says what it began from."""
    files = {"run": folder / "config.json", "summary": report / "summary.json"}
    result = {name: json.loads(path.read_text()) for name, path in files.items()}
    partial = folder / "result.json.partial"
    partial.write_text(json.dumps(result, indent=2) + "\n")
    partial.replace(folder / "result.json")


def _read_result(folder: Path) -> dict[str, Any] | None:
    """What `_write_result` wrote, or None where the run did not end yet."""
    path = folder / "result.json"
    try:
        return json.loads(path.read_text()) if path.is_file() else None
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); remove it to evaluate again") from error


def _results(workdir: Path, seeds: Sequence[int], latest: tuple[str, int]) -> Results:
    """Summaries by row and seed of the runs whose protocol is that of `latest`."""
    found = {key: _read_result(_folder(workdir, key)) for key in itertools.product(ROWS, seeds)}
    results = {key: result["summary"] for key, result in found.items() if result}
    wanted = protocol_of(results[latest])
    return {key: summary for key, summary in results.items() if protocol_of(summary) == wanted}


def _folder(workdir: Path, key: tuple[str, int]) -> Path:
    name, seed = key
    return workdir / name / f"seed{seed}"
