"""Rows of the ablation above streams that stay as they are, over seeds.

    python benchmarks/frozen.py --shards=shards/ucf10 --split=split1 --maps=maps/split1 \
        --out=frozen --weights=spatial=squeezenet1_1_imagenet.npz,temporal=ckpt-ucf10/temporal

Streams that do not learn give every row and every seed the same last maps. These are computed once
and kept in --maps: of DRAWS augmented samples of each training clip (frame, interval, crop and flip
drawn as in training), and of POSITIONS positions x centre crop of each test clip. What is above the
streams is the network's own, and so are its solver and its step; a run takes a minute.

Scores go to OUT/<row>/<split>-seed<seed>.npz, for --mode=compare and --mode=fuse of main.py. Rows
of one snippet see the middle one of the three, at the same moments as the others; rows of five are
left out. --validation=0.2 scores groups that are held out of training instead, on augmented
samples, to choose by; the streams must not have seen them either.
"""

import argparse
import dataclasses
import functools
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from maps import BATCH, DRAWS, POSITIONS, SNIPPETS, STREAMS, Maps, check_unseen, maps_of

from stpyramid_jax.ablation.rows import ROWS, Row, choose_rows, choose_seeds
from stpyramid_jax.evaluation.metrics import confusion, mean_class_accuracy
from stpyramid_jax.evaluation.scores import Scores, save
from stpyramid_jax.experiment import Experiment, build_experiment, default_config
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.models.pyramid import ModelConfig, Pyramid, create_model
from stpyramid_jax.performance import compiler_options
from stpyramid_jax.training.optimizer import make_optimizer, schedule
from stpyramid_jax.training.state import TrainState, input_shapes
from stpyramid_jax.training.step import train_step
from stpyramid_jax.training.validation import hold_out

# Learning rates of class scores on a stream's own features, and on fused ones of unit RMS.
RATES = {"score": 0.001, "stcb": 0.002}
STEPS, DROPOUT, DECAY = 400, 0.5, 5e-4


@dataclasses.dataclass(frozen=True)
class Above:
    """A network without its streams, whose last maps it takes in the place of images."""

    model: Pyramid

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def init(self, key: jax.Array, maps: Mapping[str, Any]) -> Any:
        return self._given(maps, self.model.init, key, train=False)

    def apply(self, variables: Any, maps: Mapping[str, Any], **options: Any) -> Any:
        return self._given(maps, self.model.apply, variables, **options)

    def _given(self, maps, call, first, **options):
        streams = {"spatial": maps.get("rgb"), "temporal": maps.get("flow")}

        def take(compute, arguments, keywords, context):
            if context.module.path not in STREAMS:
                return compute(*arguments, **keywords)
            found = streams[context.module.name].astype(jnp.float32)
            return found.reshape(-1, *found.shape[-3:])  # snippets are folded into the batch

        count = next(maps[name] for name in self.config.layouts).shape[0]
        shapes = input_shapes(self.config, 1, count)  # of images that nobody looks at
        with nn.intercept_methods(take):
            return call(first, {name: jnp.zeros(shapes[name]) for name in shapes}, **options)


def experiment_of(args: argparse.Namespace, row: Row, num_classes: int) -> Experiment:
    """A row above the streams of --weights; its batches are as those of the whole pyramid."""
    config = default_config()
    config.data.update(dir=str(args.shards), split=args.split, validation=args.validation)
    config.input.crop = args.crop
    config.model.update(row.model, dropout=DROPOUT)
    config.optimizer.update(
        learning_rate=RATES[config.model.stream_fusion],
        boundaries=(int(0.7 * STEPS), int(0.9 * STEPS)),
        warmup=20,
        weight_decay=DECAY,
    )
    config.training.update(steps=STEPS, batch_size=BATCH, weights=args.weights)
    return build_experiment(config.to_dict(), num_classes)


def train(
    experiment: Experiment, maps: Maps, rows: Int[np.ndarray, " n"], labels: np.ndarray, seed: int
) -> Any:
    """Variables of what is above the streams, after training on some samples."""
    above, solver = Above(create_model(experiment.model)), experiment.optimizer
    config, optimizer = above.config, make_optimizer(solver)
    key, rng = jax.random.key(seed), np.random.default_rng(seed)
    variables = dict(jax.jit(above.init)(key, maps.batch(rows[:1], config)))
    params = variables.pop("params")
    state = TrainState(jnp.zeros((), jnp.int32), params, variables, optimizer.init(params))
    rate = schedule(solver, BATCH)
    step = jax.jit(
        functools.partial(train_step, model=cast(Pyramid, above), optimizer=optimizer, rate=rate),
        donate_argnums=0,
        compiler_options=compiler_options(),
    )
    epochs = -(-experiment.training.steps * BATCH // len(rows))
    order = np.concatenate([rng.permutation(rows) for _ in range(epochs)])
    for start in range(0, experiment.training.steps * BATCH, BATCH):
        chosen = order[start : start + BATCH]
        batch = {**maps.batch(chosen, config), "label": labels[maps.video[chosen]]}
        state, _ = step(state, batch, key)
    return state.variables


def score(
    experiment: Experiment, variables: Any, maps: Maps, clips: Int[np.ndarray, " V"]
) -> Float[np.ndarray, "V K"]:
    """Class scores of clips: means over their samples."""
    above, rows = Above(create_model(experiment.model)), maps.of(clips)
    forward = jax.jit(lambda variables, batch: above.apply(variables, batch, train=False).logits)
    filled = np.resize(rows, -(-len(rows) // BATCH) * BATCH)  # one shape, compiled once
    found = np.concatenate(
        [
            np.asarray(forward(variables, maps.batch(chosen, above.config)), np.float64)
            for chosen in filled.reshape(-1, BATCH)
        ]
    )[: len(rows)]
    return np.stack([found[maps.video[rows] == clip].mean(axis=0) for clip in clips])


def run(args: argparse.Namespace, rows: Sequence[Row], seeds: Sequence[int]) -> None:
    """Trains and scores each row and seed, and prints accuracies as they come."""
    shards = Shards(args.shards)
    whole = experiment_of(args, ROWS["D"], len(shards.classes))
    training, clips = (shards.select(args.split, part) for part in ("train", "test"))
    if args.validation:
        training, clips = hold_out(shards.videos, training, args.validation)
    check_unseen(whole, shards, clips)
    train_maps, test_maps = maps_of(whole, shards, args.maps)
    scored = train_maps if args.validation else test_maps
    labels = np.array([video.label for video in shards.videos], np.int32)
    kind = "held-out" if args.validation else "test"
    print(f"mean class accuracy in % on {len(clips)} {kind} clips of {shards.name} {args.split}")
    for row in rows:
        experiment, accuracies = experiment_of(args, row, len(shards.classes)), []
        for seed in seeds:
            variables = train(experiment, train_maps, train_maps.of(training), labels, seed)
            scores = score(experiment, variables, scored, clips)
            accuracies.append(mean_class_accuracy(confusion(scores, labels[clips])))
            _write(args, experiment, row, seed, shards, clips, scores)
        percent = [100 * accuracy for accuracy in accuracies]
        spread = f" ± {statistics.stdev(percent):.1f}" if len(seeds) > 1 else ""
        each = " ".join(f"{accuracy:.1f}" for accuracy in percent)
        print(f"{row.name:15} {statistics.mean(percent):.1f}{spread} ({each})", flush=True)


def _write(args, experiment, row, seed, shards, clips, scores) -> None:
    folder, held = args.out / row.name, bool(args.validation)
    folder.mkdir(parents=True, exist_ok=True)
    videos = [shards.videos[clip] for clip in clips]
    about = {
        "protocol": f"{DRAWS} training views" if held else f"{POSITIONS} positions x 1 crops",
        "crop": args.crop,
        "test_scale": experiment.input.test_scale,
        "test_tau": experiment.input.test_tau,
        "motion": experiment.model.motion,
        "clips_trained_on": 0,
        "dataset": shards.name,
        "digest": shards.digest,
        "split": args.split + " (held out)" * held,
        "row": row.name,
        "seed": seed,
        "weights": args.weights,
    }
    labels = np.array([video.label for video in videos])
    names = tuple(video.name for video in videos)
    path = folder / f"{args.split}{'-held-out' * held}-seed{seed}.npz"
    save(Scores(scores, labels, names, tuple(shards.classes), about), path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=Path, required=True, help="prepared data, with flow")
    parser.add_argument("--split", default="split1")
    parser.add_argument("--weights", required=True, help="spatial=...,temporal=...: the streams")
    parser.add_argument("--maps", type=Path, required=True, help="folder that keeps their maps")
    parser.add_argument("--out", type=Path, required=True, help="folder for the scores")
    parser.add_argument("--rows", default="spatial,temporal,A,B,C,D", help="of the ablation")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--crop", type=int, default=192, help="side of what the streams see, px")
    parser.add_argument("--validation", type=float, default=0.0, help="share of groups held out")
    args = parser.parse_args()
    try:
        rows = choose_rows(args.rows.split(","))
        if long := [row.name for row in rows if cast(int, row.model["snippets"]) > SNIPPETS]:
            raise ValueError(f"--rows: {', '.join(long)} take more than {SNIPPETS} snippets")
        run(args, rows, choose_seeds(args.seeds.split(",")))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
