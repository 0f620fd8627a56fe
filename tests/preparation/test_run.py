"""The whole preparation on tiny clips: what comes out, whatever happens on the way."""

import csv
import hashlib
import json
import shutil
from inspect import signature
from pathlib import Path

import cv2
import numpy as np
import pytest

from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.ops.tvl1 import tvl1
from stpyramid_jax.preparation.choices import Choices
from stpyramid_jax.preparation.run import prepare
from stpyramid_jax.preparation.sources.flow import flow_fields, flow_parameters
from tests.preparation.conftest import SIZE, examples, interrupted, quick, rows, tree


def test_frames_come_back_in_order(unbroken, make):
    counts = {"Jump/v_Jump_g01_c01": 16, "Jump/v_Jump_g02_c01": 12, "Run/v_Run_g01_c01": 20}
    sources = {name: make.clip(seed, count) for seed, (name, count) in enumerate(counts.items())}
    assert {r["name"]: int(r["frames"]) for r in rows(unbroken / "videos.csv")} == counts
    for row, number, example in examples(unbroken, "rgb"):
        assert example["video"] == row["name"].encode()
        assert example["frame"] == number
        assert example["label"] == int(row["label"]) == int(row["class"] == "Run")
        image = cv2.imdecode(np.frombuffer(example["image"], np.uint8), cv2.IMREAD_COLOR_RGB)
        errors = [np.abs(image.astype(float) - s).mean() for s in sources[row["name"]]]
        # Neighbours differ by far more than JPEG does, so a swap or a lost frame would show.
        assert np.argmin(errors) == number
        assert errors[number] < 3 < sorted(errors)[1]


def test_fields_come_back_in_order(unbroken, make):
    greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in make.clip(2, 20)]
    expected = list(flow_fields(greys, "dis"))
    seen = 0
    for row, number, example in examples(unbroken, "flow"):
        assert example["frame"] == number
        field = cv2.imdecode(np.frombuffer(example["image"], np.uint8), cv2.IMREAD_GRAYSCALE)
        assert field.shape == (2 * SIZE[1], SIZE[0])
        if row["class"] == "Run":
            error = field.reshape(2, SIZE[1], SIZE[0]).astype(float) - expected[number]
            assert np.abs(error).mean() < 1.5
            seen += 1
    assert seen == 19


def test_dataset_describes_the_files(unbroken):
    dataset = json.loads((unbroken / "dataset.json").read_text())
    files = tree(unbroken)
    files.pop("dataset.json")
    assert dataset["files"] == {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }
    assert (dataset["name"], dataset["classes"]) == ("clips", ["Jump", "Run"])
    assert (dataset["videos"], dataset["rgb_frames"], dataset["flow_fields"]) == (3, 48, 45)
    assert dataset["parameters"]["size"] == [64, 48]
    assert dataset["parameters"]["flow"] == {"method": "dis", "bound": 20}
    assert files["errors.csv"] == b"name,path,reason\n"


def test_families_are_those_that_were_asked_for(clips, unbroken, tmp_path):
    """Flow without the camera's motion beside the same flow, or none, of the same frames."""
    warped = quick(clips, tmp_path / "warped", warped=True)
    none = quick(clips, tmp_path / "none", flow="none")
    assert warped["families"] == ["rgb", "flow", "warped"]
    assert none["families"] == ["rgb"]
    there, here = tree(unbroken), tree(tmp_path / "warped")
    for name in there:
        if "tfrecord" in name:
            assert here[name] == there[name]
    alone = tree(tmp_path / "none")
    assert not [name for name in alone if "flow" in name or "warped" in name]
    assert {n: d for n, d in alone.items() if "-rgb." in n}.items() <= there.items()
    shards = Shards(tmp_path / "warped")
    for number, video in enumerate(shards.videos):
        warped = list(shards.flow(number, 0, video.fields, "warped"))
        assert [field.shape for field in warped] == [(2, 48, 64)] * video.fields


def test_parameters_of_tvl1_are_recorded():
    names = {n for n, p in signature(tvl1).parameters.items() if p.default is not p.empty}
    assert names < flow_parameters("tvl1").keys()


@pytest.mark.parametrize("flow", ["dis", "tvl1"])
def test_bytes_do_not_depend_on_the_number_of_workers(clips, tmp_path, flow):
    for workers in (1, 2):
        quick(clips, tmp_path / str(workers), workers=workers, flow=flow, size=(20, 16))
    assert tree(tmp_path / "1") == tree(tmp_path / "2")


def test_listed_videos_of_chosen_classes(make, tmp_path, capsys):
    lists, videos = tmp_path / "lists", tmp_path / "videos"
    pull, stand = ("PullUps/v_PullUps_{}.avi", "HandstandPushups/v_HandStandPushups_{}.avi")
    train = tuple(name.format("g08_c01") for name in (pull, stand))
    test = tuple(name.format("g01_c01") for name in (pull, stand))
    eye = "ApplyEyeMakeup/v_ApplyEyeMakeup_g09_c01.avi"
    gone = pull.format("g09_c01")
    make.write_lists(lists, {1: ((*train, eye, gone), test), 2: ((*train, *test), ())})
    for seed, path in enumerate((*train, *test)):
        make.write_clip(videos / path, make.clip(seed, 11 + seed))
    settings = {"annotations": lists, "classes": ["PullUps", "HandstandPushups"], "workers": 1}
    settings |= {"flow": "dis", "size": SIZE}
    with pytest.raises(ValueError, match=r"v_PullUps_g09_c01\.avi: listed, but not on disk"):
        prepare(Choices("ucf101", videos, tmp_path / "out", **settings))
    dataset = prepare(Choices("ucf101", videos, tmp_path / "out", missing="skip", **settings))
    assert dataset["name"] == "ucf101-2-classes"
    assert (dataset["videos"], dataset["rgb_frames"]) == (4, 50)
    assert dataset["classes"] == ["HandstandPushups", "PullUps"]  # the order of the index
    assert dataset["splits"] == ["split1", "split2", "split3"]
    columns = ("path", "label", "group", "frames", "split1", "split2", "split3")
    assert [tuple(r[c] for c in columns) for r in rows(tmp_path / "out" / "videos.csv")] == [
        (test[1], "0", "HandstandPushups_g01", "14", "test", "train", "test"),
        (train[1], "0", "HandstandPushups_g08", "12", "train", "train", "train"),
        (test[0], "1", "PullUps_g01", "13", "test", "train", "test"),
        (train[0], "1", "PullUps_g08", "11", "train", "train", "train"),
    ]
    records = [(r["path"], e["label"]) for r, _, e in examples(tmp_path / "out", "rgb")]
    assert len(records) == 50
    assert set(records) == {(train[1], 0), (test[1], 0), (train[0], 1), (test[0], 1)}
    out, error = capsys.readouterr()
    assert out.startswith("1 listed videos are not on disk: left out\n")
    warning = "split2 has no test videos, so nothing can be evaluated on it"
    assert error == f"warning: {warning}\n"


def test_real_clips_keep_their_frames_and_splits(real, tmp_path):
    listed = list(csv.DictReader((real / "ucf10" / "clips.csv").read_text().splitlines()))
    known = sorted(listed, key=lambda row: int(row["frames"]))[:4]
    for row in known:
        path = tmp_path / "videos" / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(real / "ucf10" / "videos" / row["path"])
    dataset = prepare(
        Choices(
            "ucf101",
            tmp_path / "videos",
            tmp_path / "out",
            annotations=real / "splits" / "ucfTrainTestlist",
            missing="skip",
            flow="dis",
            size=(85, 64),
            workers=1,
        )
    )
    assert len(dataset["classes"]) == 101
    assert dataset["rgb_frames"] == sum(int(row["frames"]) for row in known)
    columns = ("name", "path", "class", "frames", "split1", "split2", "split3")
    found = {tuple(row[c] for c in columns) for row in rows(tmp_path / "out" / "videos.csv")}
    assert found == {tuple(row[c] for c in columns) for row in known}


def test_a_replaced_video_is_noticed(clips, tmp_path, make):
    videos = tmp_path / "clips"
    shutil.copytree(clips, videos)
    quick(videos, tmp_path / "out")
    make.write_clip(videos / "Run" / "v_Run_g01_c01.avi", make.clip(7, 20))
    with pytest.raises(ValueError, match=r"prepared with parameters\.video_list_sha256"):
        quick(videos, tmp_path / "out")


def test_a_complete_folder_is_left_alone(clips, unbroken, capsys):
    before = {p: p.stat().st_mtime_ns for p in unbroken.iterdir()}
    quick(clips, unbroken, on_error="fail")
    assert {p: p.stat().st_mtime_ns for p in unbroken.iterdir()} == before
    assert (
        "is complete already: 3 videos, 48 frames, 45 fields, 0 errors" in capsys.readouterr().out
    )


def test_other_settings_are_refused_by_name(clips, unbroken):
    before = tree(unbroken)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its lines are compared below
        quick(clips, unbroken, size=(32, 24), flow="opencv", classes=["Run"])
    lines = str(caught.value).splitlines()
    for key in ("classes", "parameters.size", "parameters.flow.method", "parameters.listed_videos"):
        assert any(f"prepared with {key} = " in line for line in lines)
    assert tree(unbroken) == before


@pytest.mark.parametrize(
    ("settings", "sign"),
    [
        ({"flow": "tlv1"}, "--flow=tlv1: choose one of tvl1, opencv, dis"),
        ({"on_error": "stop"}, "--on_error=stop: choose one of skip, fail"),
        ({"missing": "drop"}, "--missing=drop: choose one of fail, skip"),
        ({"size": (340, 0)}, "--size=340x0: needs 16 to 8192"),
        ({"workers": 0}, "--workers=0: needs at least 1"),
        ({"images": [Path("images")]}, "give one of --videos and --images"),
        ({"test_ratio": 0.5, "dataset": "csv"}, "--test_ratio: csv has its own split"),
        ({"missing": "skip"}, "--missing=skip: a folder has no list"),
        ({"workers": 2, "scheduler": "tcp://host:1"}, "--workers=2: those of --scheduler work"),
        ({"size": (16, 40000)}, "--size=16x40000: needs 16 to 8192"),
        ({"flow": "none", "warped": True}, "--warped: of flow that is computed"),
        ({"classes": ["Runn"]}, "unknown class 'Runn', the nearest is 'Run'"),
    ],
)
def test_bad_settings_are_refused_before_any_work(clips, tmp_path, settings, sign):
    with pytest.raises(ValueError, match=sign):
        quick(clips, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_bad_folders_are_refused_before_any_work(clips, tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        quick(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(ValueError, match="inside --videos"):
        quick(clips, clips / "out")
    with pytest.raises(ValueError, match="needs --annotations"):
        prepare(Choices("ucf101", clips, tmp_path / "out"))
    with pytest.raises(ValueError, match="--dataset=ucf11: choose one of ucf101, hmdb51, "):
        prepare(Choices("ucf11", clips, tmp_path / "out"))


def broken_files(out):
    """Ways in which what an interrupted run had finished may be lost, and what each leaves."""
    manifest = out / ".shard-00001.jsonl"
    yield "gone", lambda: (out / "clips-rgb.tfrecord-00000-of-00003").unlink()
    yield "empty", lambda: (out / "clips-flow.tfrecord-00002-of-00003").write_bytes(b"")
    yield "cut manifest", lambda: manifest.write_bytes(manifest.read_bytes()[:40])
    yield "no manifest", lambda: manifest.write_text('{"nonsense\n')


def test_finished_shards_that_were_lost_are_written_again(clips, unbroken, tmp_path, monkeypatch):
    interrupted(clips, tmp_path / "whole", monkeypatch)
    for number, (name, _) in enumerate(broken_files(tmp_path)):
        out = tmp_path / name
        shutil.copytree(tmp_path / "whole", out)
        [*broken_files(out)][number][1]()
        quick(clips, out)
        assert tree(out) == tree(unbroken)
