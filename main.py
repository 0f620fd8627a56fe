"""Trains, evaluates and applies the pyramid.

    python main.py --config=configs/quickstart.py --workdir=ckpt
    python main.py --config=configs/quickstart.py --workdir=ckpt --mode=evaluate
    python main.py --mode=predict --workdir=ckpt --video=clip.avi
    python main.py --mode=weights --workdir=ckpt

The same command again resumes. `--config.section.key=value` overrides a value of the config.
"""

import os
import re
import sys
from pathlib import Path
from typing import NoReturn

import jax
from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment: configs/NAME.py[:argument].")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_MODE = flags.DEFINE_enum(
    "mode",
    "train_and_evaluate",
    ["train_and_evaluate", "train", "evaluate", "predict", "weights"],
    "What to do; weights writes the streams for PyTorch.",
)
_VIDEO = flags.DEFINE_string("video", None, "Video file to predict.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0 of several.")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")


def main(arguments: list[str]) -> None:
    # Imported here so that --help does not wait for grain and orbax.
    from stpyramid_jax.evaluation import predict, protocol, report
    from stpyramid_jax.experiment import build_experiment
    from stpyramid_jax.input.tfrecord import Shards
    from stpyramid_jax.training import loop, processes, weights

    if len(arguments) > 1:
        raise ValueError(f"unknown argument {arguments[1]!r}; flags start with --")
    workdir, mode = Path(_WORKDIR.value), _MODE.value
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir={workdir}: not a folder")
    processes.connect(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    if mode == "predict":
        if not _VIDEO.value or _CONFIG.value is not None:
            raise ValueError("--mode=predict takes --video=FILE, and its config from the workdir")
        for name, probability in predict.predict(workdir, Path(_VIDEO.value))[:5]:
            print(f"{probability:7.2%}  {name}")
        return
    if mode == "weights":
        if _CONFIG.value is not None:
            raise ValueError("--mode=weights takes its config from the workdir")
        for path in weights.export_weights(workdir):
            print(path)
        return
    if _CONFIG.value is None:
        raise ValueError(f"--mode={mode} needs --config=configs/NAME.py")
    shards = Shards(_CONFIG.value.data.dir)
    experiment = build_experiment(_CONFIG.value.to_dict(), num_classes=len(shards.classes))
    if mode != "train":
        shards.select(experiment.data.split, "test")  # refused now rather than after training
    if mode != "evaluate":
        loop.train(experiment, shards, workdir, protocol.validator(experiment, shards))
    if mode != "train":
        folder = protocol.evaluate(experiment, shards, workdir)
        if jax.process_index() == 0:
            print(report.table(folder))


def _run(arguments: list[str]) -> None:
    from stpyramid_jax.training.interruption import EXIT_CODE, Interrupted

    logging.set_verbosity(logging.WARNING)  # orbax tells every step of a save
    try:
        main(arguments)
    except Interrupted as reason:
        print(reason, file=sys.stderr)
        sys.exit(EXIT_CODE)
    except (ValueError, FloatingPointError, OSError) as error:
        code = 2 if isinstance(error, ValueError) else 1
        if not jax.distributed.is_initialized():
            _refuse(str(error), code)
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(code)  # others may train on: JAX would wait minutes for them


def _parse(arguments: list[str]) -> list[str]:
    """Parses the flags; what is wrong with them is said in one line."""
    try:
        remaining = flags.FLAGS(arguments)
        if _CONFIG.value is not None:
            _CONFIG.value.to_dict()  # a file that did not load says so when it is read
        return remaining
    except (AttributeError, KeyError) as error:  # an override of a key that is not in the config
        from stpyramid_jax.experiment import nearest_key

        key = re.findall(r"\w+", str(error))[0]
        _refuse(f"config has no key {key!r}; did you mean --config.{nearest_key(key)}?")
    except (flags.Error, OSError) as error:
        _refuse(str(error).strip().splitlines()[-1].strip().removeprefix("ValueError: "))


def _refuse(reason: str, code: int = 2) -> NoReturn:
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    jax.config.config_with_absl()
    app.run(_run, flags_parser=_parse)
