"""Draws what a trained model D looks at: frame, flow and attention of some test clips.

python docs/picture.py --workdir=demo/run --shards=demo/shards --out=docs/attention.png
"""

import argparse
import dataclasses
from pathlib import Path

import cv2
import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stpyramid_jax.experiment import load_experiment
from stpyramid_jax.input.pipeline import eval_batches
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.models.pyramid import create_model
from stpyramid_jax.preparation.sources.flow import BOUND
from stpyramid_jax.preparation.verification.contact import flow_colours
from stpyramid_jax.training.checkpoint import load_trained
from stpyramid_jax.training.sharding import make_mesh


def flow_picture(snippet: np.ndarray) -> np.ndarray:
    """A snippet's mean displacement in colour."""
    mean = np.stack([snippet[..., axis::2].mean(-1) for axis in (0, 1)], -1)
    flow = (mean - 127.5) * 2 * BOUND / 255
    return flow_colours(flow, max(np.linalg.norm(flow, axis=-1).max(), 0.6))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="a run with attention")
    parser.add_argument("--shards", required=True, help="the data set it was trained on")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    args = parser.parse_args()

    experiment, _ = load_experiment(args.workdir)
    shards = Shards(args.shards)
    variables = load_trained(experiment, args.workdir, make_mesh()).variables
    if not (experiment.model.attention and experiment.input.inputs == ("rgb", "flow")):
        parser.error(f"--workdir={args.workdir}: its model has no attention or sees no flow")
    clips = shards.select(experiment.data.split, "test")
    labels = np.array([shards.videos[clip].label for clip in clips])
    shown = np.array([clips[labels == k][0] for k in np.unique(labels)])
    config = dataclasses.replace(experiment.input, threads=1)
    batch = next(iter(eval_batches(shards, shown, config, 1, 1, len(shown))))
    inputs = {name: batch[name][:, 0] for name in ("rgb", "flow")}
    model = create_model(experiment.model)
    outputs = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, inputs)
    probabilities = np.asarray(jax.nn.softmax(outputs.logits))

    figure = Figure(figsize=(1.75 * len(shown), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, len(shown))
    for column, (frame, flow, weights) in enumerate(
        zip(inputs["rgb"], inputs["flow"], np.asarray(outputs.attention), strict=True)
    ):
        guess = int(probabilities[column].argmax())
        size = frame.shape[1::-1]
        heat = cv2.resize(weights / weights.max(), size, interpolation=cv2.INTER_LINEAR)
        axes[0, column].imshow(frame)
        axes[1, column].imshow(flow_picture(flow[len(flow) // 2]))
        axes[2, column].imshow(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cmap="gray")
        axes[2, column].imshow(heat, cmap="inferno", alpha=0.6, vmin=0, vmax=1)
        axes[0, column].set_title(shards.classes[batch["label"][column]], fontsize=10)
        axes[2, column].set_xlabel(
            f"{shards.classes[guess]} {probabilities[column, guess]:.0%}", fontsize=9
        )
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for row, name in enumerate(("frame", "flow, middle snippet", "attention")):
        axes[row, 0].set_ylabel(name, fontsize=10)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
