"""Classes of one video file: decode, flow, forward; the most probable first."""

from pathlib import Path

import cv2
import numpy as np

from stpyramid_jax.evaluation.protocol import clip_scores, jitted_forward
from stpyramid_jax.experiment import load_experiment
from stpyramid_jax.input.config import InputConfig
from stpyramid_jax.input.pipeline import eval_batches
from stpyramid_jax.input.sampling import numbers, test_samples
from stpyramid_jax.input.tfrecord import Video
from stpyramid_jax.models.pyramid import create_model
from stpyramid_jax.preparation.sources.decode import frames
from stpyramid_jax.preparation.sources.flow import flow_fields
from stpyramid_jax.progress import say
from stpyramid_jax.training.checkpoint import load_trained
from stpyramid_jax.training.sharding import make_mesh, round_up


def predict(workdir: Path, video: Path) -> list[tuple[str, float]]:
    """Every class with its probability, the most probable first.

    The views are those of the run's evaluation, at the frame size and with the flow of the data
    set it was trained on, but for the shards' JPEG compression. A video of any length is decoded
    twice and never held in memory; flow is computed only where a view needs it, if the model does.

    Raises:
      ValueError: no trained run in the workdir, or a video that does not decode or is too short.
    """
    experiment, dataset = load_experiment(workdir)
    mesh = make_mesh()
    variables = load_trained(experiment, workdir, mesh).variables
    settings = experiment.evaluation
    size, method = (dataset["size"][0], dataset["size"][1]), dataset["flow"]
    if method == "images" and "flow" in experiment.input.inputs:
        method = "tvl1"
        say("flow: the data set's was given as images; of this video it is computed by tvl1")
    try:
        clip = Clip(video, size, method, experiment.input, settings.positions)
    except ValueError as error:
        raise ValueError(f"{video}: {error}") from error
    rows = round_up(min(settings.batch_size, settings.positions), mesh)
    batches = eval_batches(
        clip, np.zeros(1, np.int64), experiment.input, settings.positions, settings.crops, rows
    )
    step = jitted_forward(create_model(experiment.model), mesh)
    scores = clip_scores(variables, step, batches, mesh)[0]
    probabilities = np.exp(scores - scores.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities)
    return [(dataset["classes"][k], float(probabilities[k])) for k in order]


class Clip:
    """A video file as a source of one clip, holding only what evaluation will ask of it."""

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        method: str,
        config: InputConfig,
        positions: int,
    ):
        count = sum(1 for _ in frames(path))
        if count < config.snippet_length + 1:
            raise ValueError(
                f"has {count} frames, fewer than the {config.snippet_length + 1} of one snippet"
            )
        samples = test_samples(
            count - 1, positions, config.snippets, config.snippet_length, config.test_tau
        )
        pictures: set[int] = set()
        wanted: set[int] = set()  # fields
        for sample in samples:
            chosen = numbers(sample, count - 1, config.snippet_length, config.inputs)
            for name, records in chosen.items():
                (wanted if name == "flow" else pictures).update(records.ravel().tolist())
        self.directory, self.families = path.parent, config.families
        self.videos = (Video(path.name, -1, "", count, count - 1, 0, {}),)
        self._frames: dict[int, np.ndarray] = {}
        self._fields: dict[int, np.ndarray] = {}
        run: list[int] = []  # frames in a row whose flow is wanted
        images: list[np.ndarray] = []
        for number, image in enumerate(frames(path, size)):
            if number in pictures:
                self._frames[number] = image
            if number in wanted or number - 1 in wanted:
                run.append(number)
                images.append(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
            if run and number not in wanted:
                fields = flow_fields(images, method, (config.motion,))
                self._fields |= zip(run, (field for (field,) in fields), strict=False)
                run, images = [], []

    def rgb(self, video: int, frame: int) -> np.ndarray:
        return self._frames[frame]

    def flow(self, video: int, start: int, length: int, family: str = "flow") -> np.ndarray:
        return np.stack([self._fields[number] for number in range(start, start + length)])
