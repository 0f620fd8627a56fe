"""Draws what a trained model D looks at: frame, flow and attention of some test clips.

python docs/picture.py --workdir=demo/run --shards=demo/shards --out=docs/attention.png
"""

import argparse
from pathlib import Path

import numpy as np
from jax.nn import softmax

from stpyramid_jax.evaluation.observation import observe
from stpyramid_jax.evaluation.report.figures import new_figure, save, short
from stpyramid_jax.experiment import load_experiment
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.training.checkpoint import load_trained
from stpyramid_jax.training.sharding import make_mesh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="a run with attention")
    parser.add_argument("--shards", required=True, help="the data set it was trained on")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    args = parser.parse_args()

    experiment, _ = load_experiment(args.workdir)
    if not experiment.model.attention:
        parser.error(f"--workdir={args.workdir}: its model has no attention")
    shards, mesh = Shards(args.shards), make_mesh()
    clips = shards.select(experiment.data.split, "test")
    labels = np.array([shards.videos[clip].label for clip in clips])
    first = np.unique(labels, return_index=True)[1]  # clip of each class
    variables = load_trained(experiment, args.workdir, mesh).variables
    observations = observe(experiment, shards, variables, clips[first], mesh)
    probabilities = np.asarray(softmax(observations.scores))

    figure = new_figure(1.75 * len(first), 5.6)
    columns = figure.subplots(3, len(first), squeeze=False).T
    for number, (column, label) in enumerate(zip(columns, labels[first], strict=True)):
        pictures, guess = observations.look(number), int(probabilities[number].argmax())
        for axes, (name, picture) in zip(column, pictures.items(), strict=True):
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
            if number == 0:
                axes.set_ylabel("flow, middle snippet" if name == "motion" else name)
        column[0].set_title(short(shards.classes[label]), fontsize=10)
        answer = f"{short(shards.classes[guess])} {probabilities[number, guess]:.0%}"
        column[-1].set_xlabel(answer, fontsize=9)
    save(figure, args.out)


if __name__ == "__main__":
    main()
