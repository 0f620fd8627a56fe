"""Clips that a checkpoint was trained on are not evaluated, whichever run it learnt them in."""

import csv
import dataclasses
import json

import pytest

from configs import quickstart
from stpyramid_jax.evaluation.protocol import evaluate, validator
from stpyramid_jax.experiment import build_experiment
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.preparation.choices import Choices
from stpyramid_jax.preparation.run import prepare
from stpyramid_jax.training.loop import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(sprites, tmp_path_factory):
    """Two splits: the second tests on one clip of each class that the first trains on."""
    folder = tmp_path_factory.mktemp("two splits")
    with (folder / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split1", "split2"])
        for path in sorted((sprites / "sprites").glob("*/*/*.avi")):
            part, label, _ = path.relative_to(sprites / "sprites").parts
            other = "test" if path.stem.endswith("train_0000") else "train"
            writer.writerow([path.relative_to(sprites / "sprites"), label, part, other])
    prepare(
        Choices(
            "csv",
            sprites / "sprites",
            folder / "shards",
            annotations=folder / "list.csv",
            size=(72, 72),
            flow="dis",
            workers=1,
        )
    )
    return Shards(folder / "shards")


def experiment_of(shards, split, **settings):
    config = quickstart.get_config("model=spatial")
    config.data.update(dir=str(shards.directory), split=split)
    config.input.crop = 16
    config.model.update(snippet_length=2)
    config.training.update(steps=1, batch_size=8, **settings)
    config.evaluation.update(positions=1, batch_size=8)
    return build_experiment(config.to_dict(), len(shards.classes))


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_another_split_whose_test_clips_were_trained_on_is_refused(shards, tmp_path):
    experiment = experiment_of(shards, "split1")
    train(experiment, shards, tmp_path)
    assert summary(evaluate(experiment, shards, tmp_path))["clips_trained_on"] == 0

    other = experiment_of(shards, "split2")
    with pytest.raises(ValueError, match=r"was trained on 6 of the 6 test clips of 'split2', such"):
        evaluate(other, shards, tmp_path)
    forced = dataclasses.replace(
        other, evaluation=dataclasses.replace(other.evaluation, force=True)
    )
    found = summary(evaluate(forced, shards, tmp_path))
    assert (found["split"], found["clips_trained_on"]) == ("split2", 6)


def test_what_the_weights_of_another_run_have_seen_counts_too(shards, tmp_path):
    train(experiment_of(shards, "split1"), shards, tmp_path / "first")
    second = experiment_of(shards, "split2", weights=str(tmp_path / "first"))
    with pytest.raises(ValueError, match=r"weights=.*first: trained on 6 of the 6 test clips of"):
        train(second, shards, tmp_path / "second")
    forced = dataclasses.replace(
        second, evaluation=dataclasses.replace(second.evaluation, force=True)
    )
    train(forced, shards, tmp_path / "second")
    with pytest.raises(ValueError, match=r"it has seen list split1, list split2"):
        evaluate(second, shards, tmp_path / "second")


def test_clips_held_out_are_scored_by_the_mean_over_classes(shards, tmp_path, capsys):
    """And those that given weights were trained on are told."""
    train(experiment_of(shards, "split1"), shards, tmp_path / "first")
    second = experiment_of(shards, "split1", weights=str(tmp_path / "first"))
    second = dataclasses.replace(second, data=dataclasses.replace(second.data, validation=0.5))
    train(second, shards, tmp_path / "second", validator(second, shards))
    line = (tmp_path / "second" / "metrics.jsonl").read_text().splitlines()[-1]
    score = json.loads(line)["validation/mean_class_accuracy"]
    assert score * 6 == pytest.approx(round(score * 6))  # one clip of each of six classes
    assert "the given weights were trained on 6 of the clips held out" in capsys.readouterr().err
