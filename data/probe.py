"""What runs of model D have learnt of the embedded clips, beside what their construction predicts.

    python data/probe.py --shards=demo/shards --labels=demo/sprites/labels.csv --runs demo/run

Of the test clips, for each run:

- Attention: its mass inside the box of the disc that acts, and of the one that stays, beside the
  mass that equal weights have there. A position of the map counts as its cell of the frame.
- No guidance: attention weights everything equally. Then only pooled colours are left, which do not
  tell who acts: Act falls to chance between twins, 50 %.
- Snippets shuffled: over all their orders, each equally often. Half of these turn the round of hops
  the other way: Hop falls to 50 %. All snippets of a swing are alike: Swing and Act stay.
- Snippets reversed: one of those orders, which turns every round: Hop falls to 0 %.

Accuracies are those of five positions and the centre crop, mean over the classes of a kind.
"""

import argparse
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from synthesize import RADIUS, SIZE, TWINS, Program, Sprite, kind_of, path, read_programs

from stpyramid_jax.evaluation.observation import observe
from stpyramid_jax.evaluation.protocol import validator
from stpyramid_jax.experiment import Experiment, load_experiment
from stpyramid_jax.input.augment import test_views
from stpyramid_jax.input.sampling import test_samples
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.training.checkpoint import load_trained
from stpyramid_jax.training.sharding import make_mesh

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of a frame."""


def box(sprite: Sprite, frame: int) -> Box:
    """Around the disc in a frame."""
    x, y = path(sprite)[frame] + SIZE / 2
    reach = RADIUS + 0.5
    return x - reach, y - reach, x + reach, y + reach


def cover(low: float, high: float, cells: int) -> Float[np.ndarray, " cells"]:
    """Part of each cell [i, i + 1) that lies in [low, high)."""
    left = np.arange(cells)
    return (np.minimum(high, left + 1) - np.maximum(low, left)).clip(0, 1)


def masses(attention: Float[np.ndarray, "h w"], found: Box, view: Box) -> tuple[float, float]:
    """Mass of the attention over a view that lies in a box, and that of equal weights."""
    height, width = attention.shape
    left, top, right, bottom = view
    across, down = width / (right - left), height / (bottom - top)
    x = cover((found[0] - left) * across, (found[2] - left) * across, width)
    y = cover((found[1] - top) * down, (found[3] - top) * down, height)
    return float(y @ attention @ x), float(y.sum() * x.sum() / (height * width))


def attention_masses(
    experiment: Experiment, shards: Shards, variables: Any, programs: Mapping[str, Program]
) -> dict[str, dict[str, float]]:
    """Mean masses at the middle of the test clips: `attention`, that of `equal` weights, and their
    `ratio`, of the disc that acts by kind of clip and in `all`, and of the one that `stays`."""
    settings = experiment.input
    clips = shards.select(experiment.data.split, "test")
    attention = observe(experiment, shards, variables, clips, make_mesh()).attention
    assert attention is not None  # `probe` takes models with attention only
    (crop,) = test_views((SIZE, SIZE), settings.test_scale, 1)
    view = (crop.x, crop.y, crop.x + crop.width, crop.y + crop.height)
    found = defaultdict(list)
    for number, weights in zip(clips, attention, strict=True):
        video = shards.videos[number]
        program = programs[Path(video.name).name]
        (sample,) = test_samples(
            video.fields, 1, settings.snippets, settings.snippet_length, settings.test_tau
        )
        for sprite in program.sprites:
            both = masses(weights, box(sprite, sample.t), view)
            rows = ["stays"] if sprite.motion == "still" else [kind_of(program.label), "all"]
            for row in rows:
                found[row].append(both)
    means = {row: np.mean(found[row], axis=0).tolist() for row in (*TWINS, "all", "stays")}
    return {
        row: {"attention": mass, "equal": equal, "ratio": mass / equal}
        for row, (mass, equal) in means.items()
    }


def unguided(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The same network with equal scores everywhere, so that attention is an average."""
    params = dict(variables["params"])
    attention = params["attention"]
    kernel = jax.numpy.zeros_like(attention["score"]["kernel"])
    params["attention"] = {**attention, "score": {**attention["score"], "kernel": kernel}}
    return {**variables, "params": params}


def reordered(variables: Mapping[str, Any], order: Sequence[int]) -> dict[str, Any]:
    """The same network for snippets in another order: its sketches of level 1 change places."""
    sketch = dict(variables["sketch"])
    inputs = sketch["level1"]["inputs"]
    sketch["level1"] = {"inputs": type(inputs)(inputs[i] for i in order)}
    return {**variables, "sketch": sketch}


def probed_accuracies(
    experiment: Experiment, shards: Shards, variables: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Accuracies by probe and by kind of classes; `all` is their mean."""
    validate = validator(experiment, shards)
    clips = shards.select(experiment.data.split, "test")
    classes = np.array([shards.classes[shards.videos[clip].label] for clip in clips])
    groups = {kind: clips[np.isin(classes, twins)] for kind, twins in TWINS.items()}

    def accuracies(variables) -> dict[str, float]:
        found = {kind: validate(variables, videos) for kind, videos in groups.items()}
        return found | {"all": float(np.mean(list(found.values())))}

    orders = list(itertools.permutations(range(experiment.model.snippets)))
    by_order = [accuracies(reordered(variables, order)) for order in orders]
    return {
        "as trained": by_order[0],
        "no guidance": accuracies(unguided(variables)),
        "shuffled": {kind: float(np.mean([a[kind] for a in by_order])) for kind in by_order[0]},
        "reversed": by_order[-1],
    }


def probe(workdir: Path, shards: Shards, programs: Mapping[str, Program]) -> dict[str, Any]:
    """Both measurements of a run.

    Raises:
      ValueError: no trained run, none of model D's form, or other clips than its own.
    """
    experiment, dataset = load_experiment(workdir)
    if dataset["digest"] != shards.digest:
        raise ValueError(f"{workdir}: trained on other shards than {shards.directory}")
    if shards.parameters["size"] != [SIZE, SIZE]:
        raise ValueError(
            f"{shards.directory}: frames of {shards.parameters['size']}; prepare the clips with "
            f"--size={SIZE}x{SIZE}"
        )
    unknown = [v.name for v in shards.videos if Path(v.name).name not in programs]
    if unknown:
        raise ValueError(
            f"{shards.directory}: {unknown[0]} is not in --labels; give those of its clips"
        )
    model = experiment.model
    if not (model.attention and model.snippets > 1 and model.temporal_fusion == "stcb"):
        raise ValueError(f"{workdir}: no run of model D")
    variables = load_trained(experiment, workdir, make_mesh()).variables
    return {
        "attention": attention_masses(experiment, shards, variables, programs),
        "accuracy": probed_accuracies(experiment, shards, variables),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="workdirs")
    parser.add_argument("--shards", type=Path, required=True, help="what they were trained on")
    parser.add_argument("--labels", type=Path, required=True, help="labels.csv of the clips")
    parser.add_argument("--json", type=Path, help="file to write all numbers to")
    args = parser.parse_args()
    try:
        shards, programs = Shards(args.shards), read_programs(args.labels)
        found = {str(run): probe(run, shards, programs) for run in args.runs}
        if args.json:
            args.json.write_text(json.dumps(found, indent=2) + "\n")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text(found))
    return 0


def text(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of each run, and of their means."""
    lines = []
    for run, numbers in [*found.items(), ("mean", mean(list(found.values())))]:
        lines.append(run)
        for title, rows in numbers.items():
            columns = next(iter(rows.values()))
            lines.append(f"  {title:15}" + "".join(f"{name:>10}" for name in columns))
            for row, values in rows.items():
                cells = (f"{v:.1f}" if k == "ratio" else f"{v:.1%}" for k, v in values.items())
                lines.append(f"    {row:13}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


def mean(trees: Sequence[Any]) -> Any:
    """Of dictionaries of numbers, leaf by leaf."""
    if isinstance(trees[0], dict):
        return {key: mean([tree[key] for tree in trees]) for key in trees[0]}
    return float(np.mean(trees))


if __name__ == "__main__":
    sys.exit(main())
