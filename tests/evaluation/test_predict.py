"""Videos to predict: found, read as the evaluation reads them, and told one by one."""

import csv
import dataclasses
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from stpyramid_jax import progress
from stpyramid_jax.evaluation import predict as predicting
from stpyramid_jax.evaluation import videos
from stpyramid_jax.evaluation.predict import predict, table
from stpyramid_jax.evaluation.protocol import jitted_forward
from stpyramid_jax.evaluation.run import Run, clip_probabilities, looker
from stpyramid_jax.evaluation.videos import Clip, find_videos, frame_rate
from stpyramid_jax.experiment import build_experiment, default_config
from stpyramid_jax.input.config import InputConfig
from stpyramid_jax.input.pipeline import eval_batches
from stpyramid_jax.models.pyramid import create_model
from stpyramid_jax.preparation.sources.decode import frames
from stpyramid_jax.preparation.sources.flow import flow_fields
from stpyramid_jax.training.sharding import AXES

SIZE = (64, 48)


@pytest.fixture(scope="module")
def clip(sprites):
    """A video, all its frames, and all its fields of both families."""
    path = sorted((sprites / "sprites" / "test").glob("*/*.avi"))[0]
    images = list(frames(path, SIZE))
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    flow, warped = zip(*flow_fields(grey, "dis", ("flow", "warped")), strict=True)
    return SimpleNamespace(path=path, images=images, flow=flow, warped=warped)


class Whole:
    """The same clip as a source that holds everything and counts what it is asked."""

    def __init__(self, clip, source):
        self.directory, self.videos = source.directory, source.videos
        self.families = ("rgb", "flow", "warped")
        self.clip, self.asked = clip, Counter()

    def rgb(self, video, frame):
        self.asked["rgb", frame] += 1
        return self.clip.images[frame]

    def flow(self, video, start, length, family="flow"):
        self.asked.update((family, number) for number in range(start, start + length))
        return np.stack(getattr(self.clip, family)[start : start + length])


@pytest.mark.parametrize("motion", ["flow", "warped", "rgb_difference"])
@pytest.mark.parametrize("streams", ["spatial", "temporal", "both"])
def test_a_video_gives_the_views_of_the_whole_clip(clip, streams, motion, monkeypatch):
    config = InputConfig(
        streams=streams, motion=motion, snippets=2, snippet_length=3, test_tau=7, crop=24, threads=1
    )
    if "flow" not in config.inputs:
        monkeypatch.setattr(videos, "flow_fields", None)  # not computed
    source = Clip(clip.path, SIZE, "dis", config, positions=4)
    whole = Whole(clip, source)
    (batch,), (expected,) = (
        eval_batches(of, np.zeros(1, int), config, 4, 1, 4) for of in (source, whole)
    )
    assert batch.keys() == expected.keys() >= {*config.inputs, "video", "mask"}
    for name, array in expected.items():
        np.testing.assert_array_equal(batch[name], array, err_msg=name)
    # It holds what is asked for, and no more of a video that may be long.
    held = {("rgb", number) for number in source._frames}
    held |= {(motion, number) for number in source._fields}
    assert held == set(whole.asked)
    assert len(held) < len(clip.images)


def test_a_long_video_says_how_far_it_is_read(clip, monkeypatch, capsys):
    monkeypatch.setattr(videos, "_SAID", 10)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0)
    config = InputConfig(streams="spatial", snippets=1, snippet_length=3, crop=24, threads=1)
    Clip(clip.path, SIZE, "dis", config, positions=1)
    said, count = capsys.readouterr().err.splitlines(), len(clip.images)
    counted, read = said[: count // 10], said[count // 10 :]
    assert counted[0] == f"{clip.path.name}: 10 frames so far"
    assert len(counted) == count // 10
    assert read[-1].startswith(f"{count}/{count} frames of {clip.path.name} read")


@pytest.fixture
def folder(tmp_path):
    for name in ("b.AVI", "a/c.mp4", "a/x[1].mov", ".hidden.avi", "a/notes.txt", "a/d/é b\n.mkv"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "videos"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("", ["a/c.mp4", "a/d/é b\n.mkv", "a/x[1].mov", "b.AVI"]),
        ("a/x[1].mov", ["a/x[1].mov"]),  # a name before it is a pattern
        ("a/notes.txt", ["a/notes.txt"]),  # who asks for it by name gets it
        ("*", ["b.AVI"]),  # no folders
        ("**/*.m*", ["a/c.mp4", "a/d/é b\n.mkv", "a/x[1].mov"]),
    ],
)
def test_videos_are_a_file_a_folder_or_a_pattern(folder, name, found):
    assert find_videos(str(folder / name)) == [folder / path for path in found]


@pytest.mark.parametrize("name", ["missing.avi", "*.flac", "x" * 300, "a\nb.avi"])
def test_no_video_at_all_is_refused_in_one_line(folder, name):
    with pytest.raises(ValueError, match=r"--video=.*: no such file") as error:
        find_videos(str(folder / name))
    assert "\n" not in str(error.value)


def write_video(path, count, size=(64, 48), rate=25):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate, width=size[0], height=size[1])
        for _ in range(count):
            image = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    return path


def test_the_rate_is_the_container_s(tmp_path):
    for rate in (12, 25, 60):
        assert frame_rate(write_video(tmp_path / f"{rate}.avi", 5, rate=rate)) == rate


CLASSES = ("Jump", "Run", "Swing", "Hop", "Act", "Sit")


@pytest.fixture(scope="module")
def network():
    """A run of a small model D that was never trained."""
    config = default_config().to_dict()
    config["data"]["dir"] = "nowhere"
    config["training"] |= {"steps": 1, "batch_size": 8}
    config["input"] |= {"crop": 32, "test_tau": 3, "threads": 1}
    config["model"] |= {"backbone": "convnet", "snippets": 2, "snippet_length": 4}
    config["model"] |= {"sketch_dims": (8, 8, 8), "head_std": 1.0}
    config["evaluation"] |= {"positions": 3, "crops": 1, "batch_size": 8}
    config["optimizer"]["learning_rate"] = 0.1
    experiment = build_experiment(config, len(CLASSES))
    model = create_model(experiment.model)
    inputs = {"rgb": np.zeros((1, 32, 32, 3)), "flow": np.zeros((1, 2, 32, 32, 8))}
    variables = jax.jit(lambda: model.init(jax.random.key(0), inputs, train=False))()
    return on_devices(1, experiment, variables)


def on_devices(count, experiment, variables):
    devices = np.reshape(jax.devices()[:count], (count, 1))
    mesh = Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 2)
    model = create_model(experiment.model)
    forward, look = jitted_forward(model, mesh), looker(model, variables, mesh)
    return Run(experiment, CLASSES, (64, 48), "dis", variables, 7, mesh, forward, look)


@pytest.fixture
def run(network, monkeypatch):
    monkeypatch.setattr(predicting, "load_experiment", lambda _: (network.experiment, {}))
    monkeypatch.setattr(predicting, "load_run", lambda *_: network)
    return network


def test_videos_are_predicted_one_by_one_and_what_is_none_is_told_at_the_end(run, tmp_path):
    folder = tmp_path / "videos"
    good = [
        write_video(folder / "a.avi", 30),
        write_video(folder / "b/a.avi", 9, (90, 20), rate=10),
        write_video(folder / "b/z.mp4", 5),
    ]
    (folder / "b" / "no\nvideo.avi").write_bytes(b"words")
    write_video(folder / "short.avi", 3)
    done = []
    with pytest.raises(ValueError, match=r"no\\nvideo.avi: does not decode") as error:
        done.extend(predict(tmp_path, str(folder), timeline=True))
    assert len(str(error.value).splitlines()) == 2
    assert "short.avi: has 3 frames, fewer than the 5 of one snippet" in str(error.value)
    assert [prediction.video for prediction in done] == good
    for prediction in done:
        shares = list(prediction.probabilities.values())
        assert sorted(prediction.probabilities) == sorted(CLASSES)
        assert sum(shares) == pytest.approx(1)
        assert shares == sorted(shares, reverse=True)
    # Videos of any shape and length are one shape to the network.
    assert run.forward._cache_size() == 1

    record = json.loads((tmp_path / "predictions" / "predictions.json").read_text())
    assert record["protocol"] == "3 positions x 1 crops"
    assert record["step"] == 7
    rows = {row["video"]: row for row in record["videos"]}
    assert len(rows) == 5
    for prediction in done:
        found = rows[str(prediction.video)]["probabilities"]
        assert list(found.items()) == list(prediction.probabilities.items())
    assert "does not decode" in rows[str(folder / "b" / "no\nvideo.avi")]["error"]
    for path, seconds in zip(good, (30 / 25, 9 / 10, 5 / 25), strict=True):
        file = tmp_path / "predictions" / f"{path.relative_to(folder)}.csv"
        assert file.with_suffix(".png").is_file()
        with file.open(newline="") as lines:
            ends = [float(row["end"]) for row in csv.DictReader(lines)]
        assert ends[-1] == pytest.approx(seconds)


def test_a_moment_of_a_timeline_is_what_the_network_says_of_that_stretch(run, tmp_path):
    """A video as long as one window: the only position of an evaluation is the only moment."""
    path = write_video(tmp_path / "a.avi", 8)
    settings = dataclasses.replace(run.experiment.evaluation, positions=1)
    one = dataclasses.replace(
        run, experiment=dataclasses.replace(run.experiment, evaluation=settings)
    )
    clip = Clip(path, run.size, run.method, run.experiment.input, 1)
    expected = dict(zip(CLASSES, clip_probabilities(one, clip), strict=True))
    (tmp_path / "out").mkdir()
    predicting._watch(one, path, 8, tmp_path / "out" / "a.csv", None)
    with (tmp_path / "out" / "a.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    for name, share in expected.items():
        assert float(row[name]) == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("count", [2, 8])
def test_devices_that_share_a_video_say_what_one_says(run, count, tmp_path, monkeypatch):
    """Of three positions two devices have one and two, and eight one or none."""
    path = write_video(tmp_path / "a.avi", 40)
    (expected,) = predict(tmp_path, str(path), tmp_path / "one", timeline=True)
    many = on_devices(count, run.experiment, run.variables)
    monkeypatch.setattr(predicting, "load_run", lambda *_: many)
    (found,) = predict(tmp_path, str(path), tmp_path / "many", timeline=True)
    assert list(found.probabilities) == list(expected.probabilities)
    for name, share in expected.probabilities.items():
        assert found.probabilities[name] == pytest.approx(share, rel=1e-4)
    tables = [(tmp_path / name / "a.avi.csv").read_text().split() for name in ("one", "many")]
    assert len(tables[0]) == len(tables[1]) > 10
    for row, other in zip(*tables, strict=True):
        assert row.split(",")[:3] == other.split(",")[:3]


def test_one_pass_gives_timeline_and_overlay(run, tmp_path, monkeypatch):
    from stpyramid_jax.evaluation import timeline

    computed = []

    def counted(*arguments):
        for fields in flow_fields(*arguments):
            computed.append(1)
            yield fields

    monkeypatch.setattr(timeline, "flow_fields", counted)
    path, out = write_video(tmp_path / "a.avi", 21), tmp_path / "new" / "o.mp4"
    (found,) = predict(tmp_path, str(path), tmp_path / "out", timeline=True, overlay=out)
    assert len(computed) == 20
    assert len(list(frames(out))) == 21
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "a.avi.csv",
        "a.avi.png",
        "predictions.json",
    ]
    first, *rows = table(found).splitlines()
    assert first == str(path)
    assert len(rows) == 5
    name, share = next(iter(found.probabilities.items()))
    assert rows[0].split() == [f"{share:.2%}", name]


@pytest.mark.parametrize(
    ("overlay", "message"),
    [("o.avi", "an .mp4"), ("videos", "an .mp4"), ("videos/a.mp4", "the video itself")],
)
def test_an_overlay_that_cannot_be_is_refused_before_the_work(run, overlay, message, tmp_path):
    path = write_video(tmp_path / "videos" / "a.mp4", 9)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        next(predict(tmp_path, str(path), overlay=tmp_path / overlay))
    assert path.read_bytes() == before
    write_video(tmp_path / "videos" / "b.mp4", 9)
    with pytest.raises(ValueError, match="shows one video; --video gives 2"):
        next(predict(tmp_path, str(path.parent), overlay=Path("o.mp4")))


def test_what_was_done_before_an_interruption_is_written(run, tmp_path):
    for name in ("a.avi", "b.avi"):
        write_video(tmp_path / name, 9)
    coming = predict(tmp_path, str(tmp_path / "*.avi"))
    next(coming)
    coming.close()
    record = json.loads((tmp_path / "predictions" / "predictions.json").read_text())
    assert [Path(row["video"]).name for row in record["videos"]] == ["a.avi"]


@pytest.mark.parametrize("flag", ["--out", "--overlay"])
def test_a_folder_that_cannot_be_is_refused_before_the_model_is_loaded(
    run, flag, tmp_path, monkeypatch
):
    monkeypatch.setattr(predicting, "load_run", None)
    path = write_video(tmp_path / "a.avi", 9)
    (tmp_path / "file").write_text("words")
    chosen = {"out": tmp_path / "file", "overlay": None}
    if flag == "--overlay":
        chosen = {"out": tmp_path, "overlay": tmp_path / "file" / "o.mp4"}
    with pytest.raises(ValueError, match=f"{flag}: .*file is no folder to write into") as error:
        next(predict(tmp_path, str(path), **chosen))
    assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == "words"


def test_a_workdir_without_a_run_stays_as_it_is(tmp_path):
    path = write_video(tmp_path / "a.avi", 9)
    with pytest.raises(ValueError, match=r"config.json: no such file"):
        next(predict(tmp_path / "typo", str(path)))
    assert not (tmp_path / "typo").exists()


def test_a_prediction_outlives_its_timeline(run, tmp_path):
    for name in ("a.avi", "b.avi"):
        write_video(tmp_path / name, 9)
    (tmp_path / "out" / "a.avi.csv").mkdir(parents=True)  # where the table would be
    done = []
    with pytest.raises(ValueError, match=r"a.avi: no timeline or overlay: .*directory") as error:
        done.extend(predict(tmp_path, str(tmp_path / "*.avi"), tmp_path / "out", timeline=True))
    assert len(str(error.value).splitlines()) == 1
    assert [found.video.name for found in done] == ["a.avi", "b.avi"]
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [row["probabilities"] for row in record["videos"]] == [f.probabilities for f in done]
    assert (tmp_path / "out" / "b.avi.png").is_file()


def test_earlier_predictions_outlive_a_call_that_predicts_nothing(run, tmp_path):
    (tmp_path / "no.avi").write_bytes(b"words")
    (tmp_path / "predictions.json").write_text("earlier")
    with pytest.raises(ValueError, match=r"no.avi: does not decode"):
        next(predict(tmp_path, str(tmp_path / "no.avi"), tmp_path))
    assert (tmp_path / "predictions.json").read_text() == "earlier"
