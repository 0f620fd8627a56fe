"""What saved scores say together: fused to one result, or models side by side on the same clips."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from stpyramid_jax.evaluation import metrics
from stpyramid_jax.evaluation.report import write_report
from stpyramid_jax.evaluation.scores import Scores, fuse, load, matched
from stpyramid_jax.progress import say

# What models must have been tested alike in.
_ALIKE = ("protocol", "crop", "test_scale", "test_tau", "digest", "clips_trained_on")


def fuse_files(files: str, weights: str | None, folder: Path) -> Path:
    """Fuses files of scores and writes the report of the result to a folder.

    Args:
      files: `A/scores.npz,B/scores.npz`.
      weights: `1,1.5`; None weighs all alike.

    Raises:
      ValueError: what `load` and `fuse` raise, or weights that are no numbers.
    """
    paths = [Path(file) for file in _split(files, ",")]
    if (folder / "scores.npz").resolve() in [path.resolve() for path in paths]:
        raise ValueError(
            f"--workdir={folder}: holds one of the --scores, which the result would replace; give "
            "another folder"
        )
    runs = [load(path) for path in paths]
    given = _split(weights, ",") if weights else ["1"] * len(runs)
    try:
        numbers = [float(weight) for weight in given]
    except ValueError:
        raise ValueError(f"--weights={weights}: give numbers, such as 1,1.5") from None
    fused = fuse(runs, numbers)
    write_report(folder, fused.scores, fused.labels, fused.names, fused.classes, fused.protocol)
    return folder


def compare(models: str, folder: Path) -> str:
    """Compares models over the same clips, and writes `compare.json` to a folder.

    Of each model mean class accuracy and top-1 of each split, their means over splits, and 95 %
    intervals; of each but the first, against the first: the difference with the interval of the
    paired bootstrap, and McNemar's exact test over the clips of all splits. A test is of its pair
    alone; many pairs find a small p by chance. Where splits share test clips (HMDB51's do) these
    would be counted as if they were different: means are given then, without intervals and tests.

    Args:
      models: `D1.npz+D2.npz,A1.npz+A2.npz`: models by commas, the splits of each by plus signs.

    Returns:
      the same as a table for a terminal, in %.

    Raises:
      ValueError: what `load` and `matched` raise, or models of unequally many splits.
    """
    files = _files(models)
    splits = _load_splits(files)
    runs = list(zip(*splits, strict=True))
    names = [name for run in runs[0] for name in run.names]
    shared = len(names) - len({*names})
    if shared:
        say(f"{shared} clips are in more than one split: no intervals of means, no tests")
    for line in _differing(splits):
        say(line)
    found = [_results(of_one, apart=not shared) for of_one in runs]
    for result, of_one in zip(found[1:], runs[1:], strict=True):
        result["against_first"] = _difference(of_one, runs[0], apart=not shared)
    for result, of_one, own in zip(found, files, runs, strict=True):
        result |= {"files": of_one, "protocols": [dict(run.protocol) for run in own]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compare.json").write_text(json.dumps({"models": found}, indent=2) + "\n")
    return table(found)


def _files(models: str) -> list[list[str]]:
    """The files of each model, by split: equally many, and each once in a model."""
    files = [_split(model, "+") for model in _split(models, ",")]
    if len({len(of_one) for of_one in files}) > 1:
        counts = ", ".join(str(len(of_one)) for of_one in files)
        raise ValueError(f"--scores={models}: models of {counts} splits; give the same for each")
    for of_one in files:
        paths = [Path(file).resolve() for file in of_one]
        repeated = [file for k, file in enumerate(of_one) if paths[k] in paths[:k]]
        if repeated:
            raise ValueError(f"--scores={models}: {repeated[0]} is there twice in one model")
    return files


def _load_splits(files: Sequence[Sequence[str]]) -> list[list[Scores]]:
    """The scores of each split, its models side by side over the same clips."""
    splits = []
    for number, of_split in enumerate(zip(*files, strict=True), 1):
        try:
            splits.append(matched([load(Path(file)) for file in of_split]))
        except ValueError as error:
            raise ValueError(f"split {number}: {error}") from error
    return splits


def _differing(splits: Sequence[Sequence[Scores]]) -> Iterator[str]:
    """What the models of a split were not tested alike in, a line each."""
    for number, of_split in enumerate(splits, 1):
        for key in _ALIKE:
            values = dict.fromkeys(str(run.protocol.get(key)) for run in of_split)
            if len(values) > 1:
                yield f"split {number}: {key.replace('_', ' ')} differs: {', '.join(values)}"


def _results(splits: Sequence[Scores], apart: bool) -> dict[str, Any]:
    """Accuracies of one model: of each split, and their means."""
    found: dict[str, Any] = {"splits": []}
    for run in splits:
        counts = metrics.confusion(run.scores, run.labels)
        found["splits"].append(
            {
                "num_clips": len(run.labels),
                "top1": metrics.topk_accuracy(run.scores, run.labels, 1),
                "mean_class_accuracy": metrics.mean_class_accuracy(counts),
                **metrics.intervals(run.scores, run.labels),
            }
        )
    draws = _draws([(run.hits.astype(np.int64), run.labels) for run in splits])
    clips = {
        "top1": [len(run.labels) for run in splits],
        "mean_class_accuracy": [metrics.effective_clips(run.labels) for run in splits],
    }
    for key, of_key in zip(clips, draws, strict=True):
        found[key] = mean = float(np.mean([split[key] for split in found["splits"]]))
        if apart:
            told = metrics.effective(clips[key])
            found[f"{key}_interval"] = metrics.accuracy_interval(mean, told, of_key)
    return found


def _difference(splits: Sequence[Scores], first: Sequence[Scores], apart: bool) -> dict[str, Any]:
    """Of one model against another over the same clips, the mean over splits."""
    pairs = list(zip(splits, first, strict=True))
    differences = [
        (here.hits.astype(np.int64) - there.hits.astype(np.int64), here.labels)
        for here, there in pairs
    ]
    own, other = (np.concatenate([run.hits for run in runs]) for runs in (splits, first))
    top1, classes = _draws(differences)
    mean = np.mean([metrics.class_mean(values, labels) for values, labels in differences])
    found = {
        "mean_class_accuracy": float(mean),
        "top1": float(np.mean([values.mean() for values, _ in differences])),
        "only_this_right": int((own & ~other).sum()),
        "only_first_right": int((other & ~own).sum()),
    }
    if not apart:
        return found
    return found | {
        "mean_class_accuracy_interval": metrics.interval(classes),
        "top1_interval": metrics.interval(top1),
        "mcnemar_p": metrics.mcnemar(own, other),
    }


def _draws(
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """As `resampled`, of the means over splits, whose clips are drawn independently."""
    draws = [metrics.resampled(*split, seed=seed) for seed, split in enumerate(splits)]
    clips, classes = (np.mean(of_kind, axis=0) for of_kind in zip(*draws, strict=True))
    return clips, classes


def table(models: Sequence[dict[str, Any]]) -> str:
    """Results of `compare.json` as text: mean class accuracy in %."""
    count = len(models[0]["splits"])
    head = ["model", *(f"split {k + 1}" for k in range(count)), "mean", "95 % interval"]
    head += ["against 1", "95 % interval", "only it", "only 1", "McNemar's p"]
    rows = [head]
    for number, model in enumerate(models, 1):
        row = [str(number), *(_percent(split["mean_class_accuracy"]) for split in model["splits"])]
        row += [_percent(model["mean_class_accuracy"]), _range(model)]
        if versus := model.get("against_first"):
            row += [f"{100 * versus['mean_class_accuracy']:+.1f}", _range(versus)]
            row += [str(versus["only_this_right"]), str(versus["only_first_right"])]
            row += [f"{versus['mcnemar_p']:.2g}" if "mcnemar_p" in versus else "-"]
        rows.append([*row, *[""] * (len(head) - len(row))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines += ["", *(f"{k}: {' + '.join(model['files'])}" for k, model in enumerate(models, 1))]
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _range(result: dict[str, Any]) -> str:
    if "mean_class_accuracy_interval" not in result:
        return "-"
    low, high = result["mean_class_accuracy_interval"]
    return f"{_percent(low)} to {_percent(high)}"


def _split(text: str, sign: str) -> list[str]:
    parts = text.split(sign)
    if not all(part.strip() for part in parts):
        raise ValueError(f"{text!r}: something is missing beside a {sign!r}")
    return parts
