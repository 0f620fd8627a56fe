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
    was interrupted goes on. After each the tables are written to the workdir (`write_tables`), of
    the runs that were tested as the last one was; rows that were trained otherwise are marked.

    Args:
      config: of an experiment; each row replaces its seed and the fields of `Row.model`. In
        `training.weights`, `{seed}` stands for the seed, so that each can have streams of its own.
      seeds: as text.
      names: of rows to run; all where there are none.

    Raises:
      ValueError: an unknown row or seed, a folder of a run that was trained otherwise, or as
        `loop.train` and `protocol.evaluate`.
      Interrupted: asked to stop; the run that was under way has written a checkpoint.
    """
    numbers = choose_seeds(seeds)
    plan = {
        (row.name, seed): row_experiment(config, row, seed, len(shards.classes))
        for seed in numbers
        for row in choose_rows(names)
    }
    for key, experiment in plan.items():
        _check_trained(_folder(workdir, key), run_record(experiment, shards))
    text = ""
    with interruption() as requested:
        for number, (key, experiment) in enumerate(plan.items(), start=1):
            folder = _folder(workdir, key)
            if requested(number):
                raise Interrupted(f"stopped before {folder}: run the same again")
            record = run_record(experiment, shards)
            done = _read_result(folder)
            if not done or _settings(done["run"], _PLACE) != _settings(record, _PLACE):
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


# What of a config does not change a result, and what beside it does not change a network.
_PLACE = ("data.dir", "input.threads", "evaluation.batch_size", "training.log_every", "profile")
_PLACE += ("mesh",)
_TEST = ("input.test_tau", "input.test_scale", "evaluation")
# What rows of a table differ in: their form, their seed, and the streams that they begin from.
_ROW = ("model", "input.streams", "input.snippets", "seed", "training.weights")


def _settings(record: Mapping[str, Any], less: Sequence[str]) -> dict[str, Any]:
    """Values of a run's record by key, less some keys or sections."""
    flat = {
        f"{section}.{key}": value
        for section, values in record.items()
        for key, value in (values.items() if isinstance(values, dict) else [("", values)])
    }
    return {
        key: value
        for key, value in flat.items()
        if key.strip(".") not in less and key.partition(".")[0] not in less
    }


def _check_trained(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuses a run of another training: its network would be given out as this config's."""
    if not (folder / "config.json").is_file():
        return
    there = _settings(json.loads((folder / "config.json").read_text()), _PLACE + _TEST)
    here = _settings(record, _PLACE + _TEST)
    lines = [
        f"{key.strip('.')} {there.get(key)!r} there, {value!r} here"
        for key, value in here.items()
        if there.get(key) != value
    ]
    if lines:
        raise ValueError(
            f"{folder}: trained otherwise ({'; '.join(lines)}); give another --workdir"
        )


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
    read = {key: _read_result(_folder(workdir, key)) for key in itertools.product(ROWS, seeds)}
    found = {key: result for key, result in read.items() if result}
    ways = {key: _settings(result["run"], _PLACE + _TEST + _ROW) for key, result in found.items()}
    wanted = protocol_of(found[latest]["summary"])
    return {
        key: result["summary"] | {"trained_otherwise": ways[key] != ways[latest]}
        for key, result in found.items()
        if protocol_of(result["summary"]) == wanted
    }


def _folder(workdir: Path, key: tuple[str, int]) -> Path:
    name, seed = key
    return workdir / name / f"seed{seed}"
