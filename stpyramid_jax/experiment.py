"""An experiment's configuration: free-form at the edge, frozen and checked inside."""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_collections
from ml_collections.config_dict import placeholder

from stpyramid_jax import disk
from stpyramid_jax.input.config import CROPS, CROPS_TEXT, InputConfig
from stpyramid_jax.models.pyramid import ModelConfig
from stpyramid_jax.progress import say
from stpyramid_jax.training.optimizer import OptimizerConfig
from stpyramid_jax.training.sharding import MeshConfig

if TYPE_CHECKING:
    from stpyramid_jax.input.tfrecord import Shards

# Keys outside model and data set that make a run what it is.
_FIXED = ("data.split", "data.validation", "input.crop", "seed")
# How a model is computed may change during a run: the parameters are the same.
_FREE = ("model.dtype", "model.remat")
# Fields that the data set or another section gives.
_GIVEN = {"model": ("num_classes",), "input": ("streams", "motion", "snippets", "snippet_length")}
# What a model must know of its data set.
_DATASET = {"name", "digest", "classes", "size", "flow"}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Prepared shards, and which of their splits is trained and evaluated on.

    Attributes:
      dir: folder of the shards, which `data/prepare.py` wrote.
      split: a split of their lists, such as "split1".
      validation: share of the split's training groups that is held out, whole groups of each class,
        to choose the best checkpoint by; 0 trains on all.
    """

    dir: str
    split: str = "split1"
    validation: float = 0.0

    def __post_init__(self):
        if not 0 <= self.validation < 1:
            raise ValueError(f"data.validation={self.validation}: at least 0 and less than 1")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, in what batches, and how often the run is written down (in steps).

    Attributes:
      steps: updates.
      batch_size: samples of an update, over all devices and processes.
      accumulate: micro-batches that a batch is cut into, one after the other on the device.
      label_smoothing: share of the target that is spread evenly over the classes.
      log_every, checkpoint_every: in steps; where clips are held out they are scored at every
        checkpoint.
      patience: checkpoints in a row without a better validation after which training stops; 0
        never stops.
      weights: those that the streams start from (docs/weights.md): a known name, a file or the
        workdir of a run, for both streams, or `spatial=...,temporal=...`; empty trains from
        scratch.
    """

    steps: int
    batch_size: int
    accumulate: int = 1
    label_smoothing: float = 0.0
    log_every: int = 20
    checkpoint_every: int = 500
    patience: int = 0
    weights: str = ""

    def __post_init__(self):
        for key in ("steps", "batch_size", "accumulate", "log_every", "checkpoint_every"):
            if getattr(self, key) < 1:
                raise ValueError(f"training.{key}={getattr(self, key)}: at least 1")
        if self.patience < 0:
            raise ValueError(f"training.patience={self.patience}: at least 0")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"training.label_smoothing={self.label_smoothing}: at least 0 and less than 1"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"training.batch_size={self.batch_size} in training.accumulate={self.accumulate} "
                "parts: give a divisor of the batch"
            )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Views whose class scores are averaged: evenly spaced positions x crops (TSN: 25 x 10).

    Attributes:
      positions: windows of a clip, evenly spaced.
      crops: boxes of each: 1 (centre), 3 (and both ends), 5 (and corners) or 10 (and mirrors).
      batch_size: views that go through the model at once, over all devices, which bounds memory;
        more of them share more snippets.
      force: score clips even if the checkpoint was trained on them, which is refused without.
    """

    positions: int = 25
    crops: int = 10
    batch_size: int = 80
    force: bool = False

    def __post_init__(self):
        for key in ("positions", "batch_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"evaluation.{key}={getattr(self, key)}: at least 1")
        if self.crops not in CROPS:
            raise ValueError(f"evaluation.crops={self.crops}: {CROPS_TEXT}")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a run is made of, beside the bytes of its data set.

    Attributes:
      seed: of the parameters at the start, the order of the samples, their views and dropout.
      profile: write a trace of a few steps for a profiler.
      data, input, model, optimizer, training, evaluation, mesh: the sections.
    """

    seed: int
    profile: bool
    data: DataConfig
    input: InputConfig
    model: ModelConfig
    optimizer: OptimizerConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    mesh: MeshConfig


def default_config() -> ml_collections.ConfigDict:
    """Every key of an experiment with its default; what has none is empty and must be set.

    Config files start from it, so that any key can be overridden on the command line.
    """
    config = ml_collections.ConfigDict({"seed": 0, "profile": False})
    for name, section in _sections().items():
        hints = typing.get_type_hints(section)
        config[name] = {
            field.name: placeholder(hints[field.name])
            if field.default is dataclasses.MISSING
            else field.default
            for field in dataclasses.fields(section)
            if field.name not in _GIVEN.get(name, ())
        }
    return config


def _sections() -> dict[str, Any]:
    hints = typing.get_type_hints(Experiment)
    return {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}


def build_experiment(config: Mapping[str, Any], num_classes: int) -> Experiment:
    """Checks a configuration and freezes it.

    Sections are the fields of `Experiment`. The number of classes comes from the data set, and
    the input takes what it shows from the model.

    Raises:
      ValueError: an unknown or missing key (the nearest right one is named), a value of a wrong
        type, or one that is impossible.
    """
    _check_keys(config, [field.name for field in dataclasses.fields(Experiment)], "")
    model = _section(ModelConfig, config, "model", num_classes=num_classes)
    streams = {(True, False): "spatial", (False, True): "temporal", (True, True): "both"}
    experiment = Experiment(
        seed=_typed(config["seed"], int, "seed"),
        profile=_typed(config["profile"], bool, "profile"),
        data=_section(DataConfig, config, "data"),
        input=_section(
            InputConfig,
            config,
            "input",
            streams=streams[model.uses_rgb, model.uses_flow],
            motion=model.motion,
            snippets=model.snippets,
            snippet_length=model.snippet_length,
        ),
        model=model,
        optimizer=_section(OptimizerConfig, config, "optimizer"),
        training=_section(TrainingConfig, config, "training"),
        evaluation=_section(EvaluationConfig, config, "evaluation"),
        mesh=_section(MeshConfig, config, "mesh"),
    )
    if experiment.training.patience and not experiment.data.validation:
        raise ValueError(
            f"training.patience={experiment.training.patience}: there are no clips to score; set "
            "--config.data.validation=0.1"
        )
    if experiment.seed < 0:
        raise ValueError(f"seed={experiment.seed}: at least 0")
    return experiment


def run_record(experiment: Experiment, shards: "Shards") -> dict[str, Any]:
    """What `config.json` holds: the experiment, and what a model must know of its data set."""
    values = json.loads(json.dumps(dataclasses.asdict(experiment)))
    dataset = {
        "name": shards.name,
        "digest": shards.digest,
        "classes": list(shards.classes),
        "size": shards.parameters["size"],
        "flow": shards.parameters["flow"]["method"],
    }
    return values | {"dataset": dataset}


def load_experiment(workdir: Path) -> tuple[Experiment, dict[str, Any]]:
    """The experiment and the data set that `config.json` of a workdir holds.

    Raises:
      ValueError: there is no such file, or it does not hold all of it.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; --workdir must be the folder of a trained run")
    record = read_record(path)
    try:
        parts = {name: _section(cls, record, name) for name, cls in _sections().items()}
        whole = Experiment(seed=record["seed"], profile=record["profile"], **parts)
        if lacking := _DATASET - record["dataset"].keys():
            raise ValueError(f"dataset lacks {', '.join(sorted(lacking))}")
        return whole, record["dataset"]
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: of another version ({error})") from error


def read_record(path: Path) -> dict[str, Any]:
    """What `write_record` wrote; keys that are younger than the run have their defaults.

    Raises:
      ValueError: the file is damaged.
    """
    try:
        return completed(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}); take another --workdir") from error


def completed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A run's record with the defaults of keys that it lacks.

    Raises:
      TypeError: it is no object.
    """
    if not isinstance(record, Mapping):
        raise TypeError("not an object")
    found = dict(record)
    for name, section in json.loads(json.dumps(default_config().to_dict())).items():
        if isinstance(section, dict) and isinstance(found.get(name), Mapping):
            usual = {key: value for key, value in section.items() if value is not None}
            found[name] = usual | found[name]
    return found


def check_workdir(workdir: Path, record: Mapping[str, Any], free: Collection[str] = ()) -> None:
    """Refuses a workdir that holds a run of another model, data set, held-out share, split, crop
    or seed.

    All else may differ (steps, solver, augmentation, paths, views of an evaluation) and is named,
    and so may the keys that are `free`.

    Raises:
      ValueError: the keys that differ, with both values.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    known, wanted = _flatten(read_record(path)), _flatten(record)
    if missing := wanted.keys() - known.keys():
        raise ValueError(
            f"{path}: of another version (lacks {', '.join(sorted(missing))}); "
            "take another --workdir"
        )
    differing = {
        key: f"{key}: {known.get(key)!r} there, {wanted.get(key)!r} here"
        for key in sorted(known.keys() | wanted.keys())
        if known.get(key) != wanted.get(key)
    }
    fixed = [
        line
        for key, line in differing.items()
        if (key.split(".")[0] in ("model", "dataset") or key in _FIXED)
        and key not in (*_FREE, *free)
    ]
    if fixed:
        raise ValueError(
            f"{workdir} holds another run; take another --workdir ({'; '.join(fixed)})"
        )
    for line in differing.values():
        say(f"changed since the last start: {line}")


def write_record(workdir: Path, record: Mapping[str, Any]) -> None:
    """Writes `config.json`, whole or not at all."""
    workdir.mkdir(parents=True, exist_ok=True)
    disk.write(workdir / "config.json", (json.dumps(record, indent=2) + "\n").encode())


def parse_argument(argument: str, **defaults: str) -> dict[str, str]:
    """Reads a config file's argument, `key=value,key=value`.

    >>> parse_argument("model=A", model="D", split="1")
    {'model': 'A', 'split': '1'}
    """
    values = dict(defaults)
    for part in filter(None, (argument or "").split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in defaults:
            raise ValueError(
                f"config argument {part!r}: write key=value, with key one of {', '.join(defaults)}"
            )
        values[key] = value
    return values


def nearest_key(key: str) -> str:
    """The section, or the key as `section.key`, whose own name is most like `key`."""
    sections = default_config().to_dict()
    names = {path.rpartition(".")[2]: path for path in _flatten(sections)} | {
        s: s for s in sections
    }
    return names[difflib.get_close_matches(key, names, n=1, cutoff=0.0)[0]]


def _section(cls, config: Mapping[str, Any], name: str, **given):
    """Builds a section's dataclass from the config's values and those `given` from elsewhere."""
    values = {key: value for key, value in config[name].items() if value is not None}
    hints = typing.get_type_hints(cls)
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    _check_keys(values, [key for key in hints if key not in given], name, set(required) - {*given})
    typed = {key: _typed(value, hints[key], f"{name}.{key}") for key, value in values.items()}
    return cls(**typed, **given)


def _check_keys(values: Mapping[str, Any], known: list[str], where: str, required=()) -> None:
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"config key {prefix}{key}: unknown; did you mean {prefix}{nearest}?")
    for key in required if where else known:
        if key not in values:
            raise ValueError(f"config key {prefix}{key}: missing")


def _typed(value: Any, hint: Any, key: str) -> Any:
    """The value as its field's type: integers pass as floats, lists as tuples; nothing else."""
    origin = typing.get_origin(hint)
    if origin is tuple and isinstance(value, list | tuple):
        items = typing.get_args(hint)
        items = items[:1] * len(value) if items[-1] is Ellipsis else items
        if len(items) == len(value):
            return tuple(_typed(v, item, key) for v, item in zip(value, items, strict=True))
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif (
        origin is not tuple
        and isinstance(value, hint)
        and isinstance(value, bool) == (hint is bool)
    ):
        return value
    name = str(hint) if isinstance(hint, types.GenericAlias) else hint.__name__
    raise ValueError(f"config key {key}={value!r}: must be {name}")


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
