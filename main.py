r"""Trains, evaluates and applies the pyramid, on shards that data/prepare.py has made of videos.

Train, then evaluate (the same again continues); evaluate; the paper's tables over seeds:

    python main.py --config=configs/quickstart.py --workdir=demo/run
    python main.py --config=configs/quickstart.py --workdir=demo/run --mode=evaluate
    python main.py --mode=ablation --config=configs/quickstart.py --workdir=demo/ablation \
      --seeds=0,1,2,3,4

Of what is trained: classes of videos, one program to serve, weights for PyTorch:

    python main.py --mode=predict --workdir=ckpt --video=clip.avi --timeline --overlay=seen.mp4
    python main.py --mode=export --workdir=ckpt
    python main.py --mode=weights --workdir=ckpt

Of saved scores: fused, or side by side:

    python main.py --mode=fuse --workdir=fused --scores=a/scores.npz,b/scores.npz --weights=1,1.5
    python main.py --mode=compare --workdir=compared --scores=a/scores.npz,b/scores.npz

`--config.section.key=value` overrides a value of the config, as in --config.data.dir=shards/mine;
docs/configuration.md says what every key means, README.md the rest.
"""

import os
import re
import sys
import traceback
from pathlib import Path
from typing import NoReturn

try:
    import jax

    from stpyramid_jax.extras import extra
except ModuleNotFoundError as missing:
    sys.exit(
        f"error: {missing.name} is not installed for {sys.executable}: source .venv/bin/activate, "
        "or pip install -e '.[all]' (README.md)"
    )
try:
    with extra("train"):
        from absl import app, flags, logging
        from ml_collections import config_flags
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing}")

_WITH_CONFIG = ("train_and_evaluate", "train", "evaluate", "ablation")
_OF_A_RUN = ("predict", "export", "weights")
_OF_SCORES = ("fuse", "compare")

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment: configs/NAME.py[:argument].")
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run, or of results.")
_MODE = flags.DEFINE_enum(
    "mode",
    _WITH_CONFIG[0],
    [*_WITH_CONFIG, *_OF_A_RUN, *_OF_SCORES],
    "What to do: train and evaluate by a config; the paper's ablation over seeds; predict videos, "
    "export the network as one program (StableHLO) or the streams' weights for PyTorch, of a "
    "trained workdir; fuse saved scores or compare them.",
)
_VIDEO = flags.DEFINE_string("video", "", "predict: a video file, a folder or a pattern.")
_OUT = flags.DEFINE_string("out", None, "predict: folder of results; WORKDIR/predictions.")
_TIMELINE = flags.DEFINE_bool("timeline", False, "predict: also window by window, CSV and PNG.")
_OVERLAY = flags.DEFINE_string("overlay", None, "predict: MP4 of one video with what is seen.")
_SCORES = flags.DEFINE_string("scores", "", "fuse, compare: scores.npz of runs, by commas.")
_WEIGHTS = flags.DEFINE_string("weights", None, "fuse: a number for each of --scores.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "ablation: of each row.")
_ROWS = flags.DEFINE_list("rows", [], "ablation: the rows to run, such as A,B,C,D; all.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0 of several.")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")


# Modes of the flags that only some have.
_FLAGS = {
    **dict.fromkeys(("video", "out", "timeline", "overlay"), ("predict",)),
    **dict.fromkeys(("seeds", "rows"), ("ablation",)),
    "scores": _OF_SCORES,
    "weights": ("fuse",),
    "config": _WITH_CONFIG,
}


def main(arguments: list[str]) -> None:
    # Imported here and below so that --help does not wait for grain and orbax.
    from stpyramid_jax.training import processes

    if len(arguments) > 1:
        raise ValueError(f"unknown argument {arguments[1]!r}; flags start with --")
    if not _WORKDIR.value:
        raise ValueError("--workdir=FOLDER is missing: where the run is, or is to be")
    workdir, mode = Path(_WORKDIR.value), _MODE.value
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir={workdir}: not a folder")
    if mode in _WITH_CONFIG and _CONFIG.value is None:
        raise ValueError(f"--mode={mode} needs --config=configs/NAME.py")
    for name, modes in _FLAGS.items():
        if flags.FLAGS[name].present and mode not in modes:
            hint = "; --config.training.weights is what a run starts from" * (name == "weights")
            raise ValueError(f"--mode={mode} takes no --{name}: it is for {', '.join(modes)}{hint}")
    if mode in _OF_SCORES and not _SCORES.value:
        raise ValueError(f"--mode={mode} needs --scores=A/scores.npz,B/scores.npz")
    if mode == "predict" and not _VIDEO.value:
        raise ValueError("--mode=predict needs --video=FILE, a folder or a pattern")
    processes.connect(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    if mode not in _WITH_CONFIG and jax.process_count() > 1:
        raise ValueError(f"--mode={mode} is for one process; there are {jax.process_count()}")
    {
        **dict.fromkeys(_WITH_CONFIG, _experiment),
        "predict": _predict,
        "export": _export,
        "weights": _export,
        "fuse": _join_scores,
        "compare": _join_scores,
    }[mode](workdir, mode)


def _experiment(workdir: Path, mode: str) -> None:
    with extra("train"):
        from stpyramid_jax.ablation.run import ablate
        from stpyramid_jax.evaluation import protocol, report
        from stpyramid_jax.experiment import build_experiment
        from stpyramid_jax.input.tfrecord import Shards
        from stpyramid_jax.training import loop

    config, shards = _CONFIG.value.to_dict(), Shards(_CONFIG.value.data.dir)
    experiment = build_experiment(config, num_classes=len(shards.classes))
    if mode != "train":
        shards.select(experiment.data.split, "test")  # refused now rather than after training
    if mode == "ablation":
        tables = ablate(config, shards, workdir, _SEEDS.value, _ROWS.value)
        if jax.process_index() == 0:
            print(tables)
        return
    if mode != "evaluate":
        loop.train(experiment, shards, workdir, protocol.validator(experiment, shards))
    if mode != "train":
        folder = protocol.evaluate(experiment, shards, workdir)
        if jax.process_index() == 0:
            print(report.table(folder))


def _predict(workdir: Path, mode: str) -> None:
    with extra("train,prepare"):
        from stpyramid_jax.evaluation import predict

    asked = _VIDEO.value, _OUT.value, _TIMELINE.value, _OVERLAY.value
    for found in predict.predict(workdir, *asked):
        print(predict.table(found), flush=True)


def _export(workdir: Path, mode: str) -> None:
    with extra("train"):
        from stpyramid_jax.export import export_model
        from stpyramid_jax.training.weights import export_weights

    for path in {"export": export_model, "weights": export_weights}[mode](workdir):
        print(path)


def _join_scores(workdir: Path, mode: str) -> None:
    with extra("train"):
        from stpyramid_jax.evaluation import compare, report

    if mode == "compare":
        print(compare.compare(_SCORES.value, workdir))
    else:
        print(report.table(compare.fuse_files(_SCORES.value, _WEIGHTS.value, workdir)))


def _run(arguments: list[str]) -> None:
    from stpyramid_jax.training.interruption import EXIT_CODE, Interrupted

    logging.set_verbosity(logging.WARNING)  # orbax tells every step of a save
    try:
        main(arguments)
    except Interrupted as reason:
        print(reason, file=sys.stderr)
        sys.exit(EXIT_CODE)
    except (ValueError, FloatingPointError, OSError, ModuleNotFoundError) as error:
        code = 2 if isinstance(error, ValueError) else 1
        if not jax.distributed.is_initialized():
            _refuse(str(error), code)
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(code)  # others may train on: JAX would wait minutes for them
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        print("error: this process has failed, or another one: see what they say", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)


def _parse(arguments: list[str]) -> list[str]:
    """Parses the flags; what is wrong with them is said in one line."""
    try:
        remaining = flags.FLAGS(arguments)
        if _CONFIG.value is not None:
            _CONFIG.value.to_dict()  # a file that did not load says so when it is read
        return remaining
    except (AttributeError, KeyError) as error:  # an override of a key that is not in the config
        from stpyramid_jax.experiment import nearest_key

        place = traceback.extract_tb(error.__traceback__)[-1]
        if "ml_collections" not in place.filename:  # the config file's own
            reason = f"{type(error).__name__}: {error}"
            _refuse(f"{place.filename}, line {place.lineno}: {reason}")
        key = re.findall(r"\w+", str(error))[0]
        _refuse(f"config has no key {key!r}; did you mean --config.{nearest_key(key)}?")
    except SyntaxError as error:
        _refuse(f"{error.filename}, line {error.lineno}: {error.msg}")
    except OSError as error:
        reason = re.sub(r".*\[Errno \d+\] ", "", str(error), flags=re.DOTALL)
        _refuse(f"--config: {reason}; give a file, as in --config=configs/quickstart.py")
    except ImportError as error:
        _refuse(f"--config: {error}")
    except flags.Error as error:
        _refuse(str(error).strip().splitlines()[-1].strip().removeprefix("ValueError: "))


def _refuse(reason: str, code: int = 2) -> NoReturn:
    for line in reason.splitlines():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    jax.config.config_with_absl()
    app.run(_run, flags_parser=_parse)
