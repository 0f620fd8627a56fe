"""Trains and evaluates the rows of the ablation over seeds, each in a workdir of its own."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from stpyramid_jax.ablation.results import (
    check_trained,
    has_ended,
    results,
    run_folder,
    write_result,
)
from stpyramid_jax.ablation.rows import Row, choose_rows, choose_seeds
from stpyramid_jax.ablation.table import write_tables
from stpyramid_jax.evaluation import protocol
from stpyramid_jax.experiment import Experiment, build_experiment, run_record
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.models.pretrained import weights_per_stream
from stpyramid_jax.progress import say
from stpyramid_jax.training import loop
from stpyramid_jax.training.interruption import Interrupted, interruption


@dataclasses.dataclass(frozen=True)
class Run:
    """What is trained of a row with a seed, what `config.json` says of it, and its workdir."""

    experiment: Experiment
    record: Mapping[str, Any]
    folder: Path


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
    numbers, rows = choose_seeds(seeds), choose_rows(names)
    runs = [_plan(config, shards, workdir, row, seed) for seed in numbers for row in rows]
    for run in runs:
        check_trained(run.folder, run.record)
    text = ""
    with interruption() as requested:
        for number, run in enumerate(runs, start=1):
            if requested(number):
                raise Interrupted(f"stopped before {run.folder}: run the same again")
            if not has_ended(run.folder, run.record):
                say(f"run {number} of {len(runs)}: {run.folder}")
                validate = protocol.validator(run.experiment, shards)
                loop.train(run.experiment, shards, run.folder, validate)
                report = protocol.evaluate(run.experiment, shards, run.folder)
                if jax.process_index() == 0:
                    write_result(run.folder, report)
            if jax.process_index() == 0:
                text = write_tables(workdir, results(workdir, numbers, latest=run.folder))
    return text


def _plan(config: Mapping[str, Any], shards: Shards, workdir: Path, row: Row, seed: int) -> Run:
    experiment = row_experiment(config, row, seed, len(shards.classes))
    record = run_record(experiment, shards)
    return Run(experiment, record, run_folder(workdir, row.name, seed))


def row_experiment(config: Mapping[str, Any], row: Row, seed: int, num_classes: int) -> Experiment:
    """The experiment of a row and a seed; weights are given to the streams that it has.

    Raises:
      ValueError: as `build_experiment`, or the streams' scores are asked for beside the pyramid's.
    """
    if config["model"].get("stream_scores"):
        raise ValueError(
            "model.stream_scores=True: no row of the ablation has it; leave it out here, and train "
            "that network without --mode=ablation"
        )
    given = {**config, "seed": seed, "model": {**config["model"], **row.model}}
    experiment = build_experiment(given, num_classes)
    used = {"spatial": experiment.model.uses_rgb, "temporal": experiment.model.uses_flow}
    sources = weights_per_stream(experiment.training.weights.replace("{seed}", str(seed)))
    weights = ",".join(f"{stream}={source}" for stream, source in sources.items() if used[stream])
    training = dataclasses.replace(experiment.training, weights=weights)
    return dataclasses.replace(experiment, training=training)
