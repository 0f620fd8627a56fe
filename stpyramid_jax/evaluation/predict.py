"""Classes of video files: decode, flow, forward; the most probable first."""

import json
import os
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from av.error import FFmpegError

from stpyramid_jax import disk
from stpyramid_jax.evaluation.overlay import write_overlay
from stpyramid_jax.evaluation.run import Run, clip_probabilities, load_run
from stpyramid_jax.evaluation.timeline import WINDOWS, moments, windows, write_timeline
from stpyramid_jax.evaluation.videos import Clip, find_videos, frame_rate, shown, told
from stpyramid_jax.experiment import load_experiment
from stpyramid_jax.preparation.annotations.listing import refuse
from stpyramid_jax.preparation.sources.decode import UnreadableVideo, frames
from stpyramid_jax.progress import progress_bar, say
from stpyramid_jax.training.sharding import round_up


@dataclass(frozen=True)
class Prediction:
    """Every class of a video with its probability, the most probable first."""

    video: Path
    probabilities: Mapping[str, float]


def predict(
    workdir: str | Path,
    videos: str | Path,
    out: str | Path | None = None,
    timeline: bool = False,
    overlay: str | Path | None = None,
) -> Iterator[Prediction]:
    """Predicts one video after the other, and at the end writes `predictions.json` to `out`.

    The views are those of the run's evaluation, at the frame size and with the flow of the data
    set it was trained on, but for the shards' JPEG compression. A video of any length is decoded
    in passes and never held in memory; flow is computed only where a view needs it, if the model
    does. Nothing is compiled again for the next video.

    Args:
      videos: a file, a folder (all files below it with a suffix of video) or a pattern of `glob`.
      out: folder, by default `predictions` in the workdir.
      timeline: also slides a window over each video (`write_timeline`); of `a/b.avi` below the
        folder of all, a table `a/b.avi.csv` and a picture `a/b.avi.png` in `out`.
      overlay: also writes this MP4, of a single video (`write_overlay`).

    Raises:
      ValueError: before all else, no trained run, no video, or a folder or an overlay that cannot
        be; after all videos are done, a line for each that does not decode or is too short, or
        whose timeline or overlay failed.
    """
    paths, workdir = find_videos(str(videos)), Path(workdir)
    overlay = Path(overlay) if overlay else None
    if overlay:
        _check_overlay(overlay, paths)
    experiment, dataset = load_experiment(workdir)
    out = Path(out) if out else workdir / "predictions"
    _make_folder("--out", out)
    if overlay:
        _make_folder("--overlay", overlay.parent)
    run = load_run(workdir, experiment, dataset)
    positions = experiment.evaluation.positions
    base = os.path.commonpath([path.parent for path in paths]) or "."
    rows, faults = [], []
    try:
        for path in paths:
            try:
                clip = Clip(path, run.size, run.method, experiment.input, positions)
                found = _prediction(path, run, clip)
            except UnreadableVideo as error:
                faults.append(f"{path}: {error}")
                rows.append({"video": str(path), "error": str(error)})
                continue
            rows.append({"video": str(path), "probabilities": found.probabilities})
            yield found
            if timeline or overlay:
                file = out / f"{os.path.relpath(path, base)}.csv" if timeline else None
                try:
                    _watch(run, path, clip.videos[0].frames, file, overlay)
                except (ValueError, OSError, FFmpegError) as error:
                    faults.append(f"{path}: no timeline or overlay: {error}")
    finally:  # what was done by then is worth keeping
        if any("probabilities" in row for row in rows):
            _write(rows, run, out)
    refuse(faults)


def table(prediction: Prediction) -> str:
    """The five most probable classes, as text for a terminal."""
    best = list(prediction.probabilities.items())[:5]
    return "\n".join([shown(prediction.video), *(f"{p:8.2%}  {name}" for name, p in best)])


def _prediction(path: Path, run: Run, clip: Clip) -> Prediction:
    shares = clip_probabilities(run, clip)
    order = np.argsort(-shares, kind="stable")
    return Prediction(path, {run.classes[k]: float(shares[k]) for k in order})


def _write(rows: Sequence[Mapping[str, Any]], run: Run, out: Path) -> None:
    settings = run.experiment.evaluation
    protocol = f"{settings.positions} positions x {settings.crops} crops"
    record = {"protocol": protocol, "step": run.step, "videos": rows}
    disk.write(out / "predictions.json", (json.dumps(record, indent=2) + "\n").encode())
    say(f"predictions: {out}")


def _check_overlay(overlay: Path, paths: Sequence[Path]) -> None:
    if len(paths) > 1:
        raise ValueError(f"--overlay={shown(overlay)}: shows one video; --video gives {len(paths)}")
    if overlay.suffix.lower() != ".mp4" or overlay.is_dir():
        raise ValueError(f"--overlay={shown(overlay)}: give the name of an .mp4 file")
    if overlay.exists() and overlay.samefile(paths[0]):
        raise ValueError(f"--overlay={shown(overlay)}: is the video itself; give another name")


def _make_folder(flag: str, folder: Path) -> None:
    """Makes a folder, and makes sure that it takes files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = f"{shown(folder)} is no folder to write into ({error.strerror})"
        raise ValueError(f"{flag}: {reason}; give another") from error


def _watch(
    run: Run, path: Path, num_frames: int, timeline: Path | None, overlay: Path | None
) -> None:
    """One pass over a video for its timeline, its overlay, or both."""
    config, rate = run.experiment.input, frame_rate(path)
    with progress_bar(num_frames, f"frames of {shown(path.name)}") as show:
        coming = windows(told(frames(path, run.size), show), run.method, config)
        found = moments(coming, config, run.look, round_up(WINDOWS, run.mesh))
        if timeline:
            timeline.parent.mkdir(parents=True, exist_ok=True)
            found = write_timeline(found, timeline, shown(path.name), run.classes, rate)
        if overlay:
            write_overlay(found, path, overlay, run.classes, rate, config.test_scale)
        deque(found, maxlen=0)  # what the overlay has not drawn from it
