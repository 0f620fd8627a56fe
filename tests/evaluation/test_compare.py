"""Models beside each other on the same clips, and fused, through their files."""

import json

import numpy as np
import pytest

from stpyramid_jax.evaluation.compare import compare, fuse_files
from stpyramid_jax.evaluation.metrics import mcnemar
from stpyramid_jax.evaluation.scores import Scores, load, save


def write(path, hits, labels, split=1, classes=3):
    """Scores whose best class is the label where `hits` says so, else another."""
    hits, labels = np.array(hits, bool), np.array(labels)
    best = np.where(hits, labels, (labels + 1) % classes)
    names = tuple(f"s{split} clip {n}" for n in range(len(labels)))
    kinds = tuple("abc"[:classes])
    protocol = {"dataset": "toy", "split": f"split{split}", "protocol": "1 x 1", "step": 5}
    protocol |= {"crop": 8, "test_tau": 6}
    save(Scores(np.eye(classes)[best], labels, names, kinds, protocol), path)
    return str(path)


LABELS = [0] * 20 + [1] * 10


def test_accuracies_differences_and_tests_of_two_models(tmp_path):
    # By split: right of class 0, right of class 1.
    files = {"first": [], "second": []}
    for split, (first, second) in enumerate([((10, 9), (14, 9)), ((12, 5), (16, 9))], 1):
        for name, (zero, one) in {"first": first, "second": second}.items():
            hits = np.concatenate([np.arange(20) < zero, np.arange(10) < one])
            files[name].append(write(tmp_path / f"{name}{split}.npz", hits, LABELS, split))
    text = compare(",".join("+".join(files[name]) for name in files), tmp_path / "out")
    one, two = json.loads((tmp_path / "out" / "compare.json").read_text())["models"]

    assert [s["mean_class_accuracy"] for s in one["splits"]] == pytest.approx([0.7, 0.55])
    assert one["mean_class_accuracy"] == pytest.approx(0.625)
    assert two["mean_class_accuracy"] == pytest.approx((0.8 + 0.85) / 2)
    assert one["top1"] == pytest.approx((19 / 30 + 17 / 30) / 2)
    for model in (one, two):
        for part in (model, *model["splits"]):
            low, high = part["mean_class_accuracy_interval"]
            assert low < part["mean_class_accuracy"] < high
    # Splits are independent: half the hypotenuse.
    widths = [np.ptp(part["mean_class_accuracy_interval"]) for part in (one, *one["splits"])]
    assert widths[0] == pytest.approx(np.hypot(*widths[1:]) / 2, rel=0.1)

    assert "against_first" not in one
    versus = two["against_first"]
    assert versus["mean_class_accuracy"] == pytest.approx(0.2)
    assert (versus["only_this_right"], versus["only_first_right"]) == (12, 0)
    assert versus["mcnemar_p"] == pytest.approx(2 * 0.5**12)
    low, high = versus["mean_class_accuracy_interval"]
    assert 0 < low < 0.2 < high
    assert one["files"] == files["first"]

    rows = [line.split() for line in text.splitlines()]
    assert rows[1][:5] == ["1", "70.0", "55.0", "62.5", rows[1][4]]
    assert rows[2][:4] == ["2", "80.0", "85.0", "82.5"]
    assert "+20.0" in rows[2]
    assert f"1: {files['first'][0]} + {files['first'][1]}" in text


def test_pairing_makes_a_difference_surer_than_two_intervals(tmp_path):
    """Models that err on the same clips: their difference is known better than each of them."""
    first = np.arange(30) % 2 == 0
    second = first | (np.arange(30) % 10 == 1)
    files = [
        write(tmp_path / "a.npz", first, LABELS),
        write(tmp_path / "b.npz", second, LABELS),
    ]
    compare(",".join(files), tmp_path)
    one, two = json.loads((tmp_path / "compare.json").read_text())["models"]
    paired = np.ptp(two["against_first"]["mean_class_accuracy_interval"])
    assert paired < 0.7 * np.ptp(one["mean_class_accuracy_interval"])


def test_a_model_against_itself_is_no_different(tmp_path):
    file = write(tmp_path / "a.npz", np.arange(30) % 3 > 0, LABELS)
    compare(f"{file},{file}", tmp_path)
    versus = json.loads((tmp_path / "compare.json").read_text())["models"][1]["against_first"]
    assert versus["mcnemar_p"] == 1
    assert versus["mean_class_accuracy_interval"] == [0, 0]


@pytest.mark.parametrize(
    ("models", "line"),
    [
        ("{a}+{b},{a}", "models of 2, 1 splits"),
        ("{a}+{a}", "a.npz is there twice"),
        ("{a},{b}", "split 1: 30 clips only in scores 1: 's1 clip 0'"),
        ("{a}+{b},{b}+{a}", "split 1: 30 clips only in scores 1"),
        ("{a},,{b}", "something is missing beside a ','"),
        ("{a}+", r"something is missing beside a '\+'"),
        ("", "something is missing"),
        ("{a},no.npz", "split 1: no.npz: no such file"),
    ],
)
def test_what_cannot_be_compared_is_refused(models, line, tmp_path):
    a = write(tmp_path / "a.npz", [True] * 30, LABELS, split=1)
    b = write(tmp_path / "b.npz", [True] * 30, LABELS, split=2)
    with pytest.raises(ValueError, match=line):
        compare(models.format(a=a, b=b), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fused_files_become_a_report(tmp_path):
    """Each model has half of the clips right, by more than the other has them wrong."""
    half = np.arange(30) % 2 == 0
    a = write(tmp_path / "a.npz", half, LABELS)
    b = write(tmp_path / "b.npz", ~half, LABELS)
    folder = fuse_files(f"{a},{b}", "1,1.5", tmp_path / "out")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["top1"] == 0.5  # where the heavier one is right
    assert summary["weights"] == [1, 1.5]
    assert summary["dataset"] == "toy"
    with np.load(folder / "scores.npz") as saved:
        np.testing.assert_allclose(
            saved["scores"],
            (load(tmp_path / "a.npz").scores + 1.5 * load(tmp_path / "b.npz").scores) / 2.5,
        )
    fuse_files(f"{a},{a}", None, tmp_path / "same")
    assert json.loads((tmp_path / "same" / "summary.json").read_text())["weights"] == [1, 1]


@pytest.mark.parametrize("weights", ["1", "1,x", "1,1,1", "1,,2", "-1,2"])
def test_impossible_weights_are_refused(weights, tmp_path):
    a = write(tmp_path / "a.npz", [True] * 30, LABELS)
    with pytest.raises(ValueError, match=r"weight|missing"):
        fuse_files(f"{a},{a}", weights, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mcnemar_is_the_binomial_test_of_discordant_clips():
    first = np.array([1] * 9 + [0] * 2 + [1] * 50 + [0] * 7, bool)
    second = np.array([0] * 9 + [1] * 2 + [1] * 50 + [0] * 7, bool)
    # Two or fewer of eleven, or nine or more.
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 11 + 55) / 2**11)
    assert mcnemar(second, first) == mcnemar(first, second)


def test_the_result_of_a_fusion_does_not_replace_a_part(tmp_path):
    first = write(tmp_path / "scores.npz", [1, 0, 1], [0, 1, 2])
    before = (tmp_path / "scores.npz").read_bytes()
    with pytest.raises(ValueError, match=r"holds one of the --scores.*; give another folder"):
        fuse_files(f"{first},{first}", None, tmp_path)
    assert (tmp_path / "scores.npz").read_bytes() == before


def test_clips_of_several_splits_are_not_counted_as_if_they_were_others(tmp_path, capsys):
    models = []
    for name, hits in (("one", [1, 1, 0] * 4), ("two", [0, 1, 0] * 4)):
        files = [write(tmp_path / f"{name}{k}.npz", hits, [0, 1, 2] * 4) for k in (1, 2)]
        models.append("+".join(files))
    text = compare(",".join(models), tmp_path / "out")
    assert "12 clips are in more than one split: no intervals of means" in capsys.readouterr().err
    one, two = json.loads((tmp_path / "out" / "compare.json").read_text())["models"]
    assert one["mean_class_accuracy"] == pytest.approx(2 / 3)
    assert "mean_class_accuracy_interval" not in one
    assert two["against_first"].keys() == {
        *("mean_class_accuracy", "top1", "only_this_right", "only_first_right")
    }
    assert text.splitlines()[2].split()[-1] == "-"


def test_models_that_were_tested_otherwise_are_told(tmp_path, capsys):
    first = write(tmp_path / "a.npz", [1, 0, 1], [0, 1, 2])
    run = load(tmp_path / "a.npz")
    other = Scores(run.scores, run.labels, run.names, run.classes, {**run.protocol, "crop": 16})
    save(other, tmp_path / "b.npz")
    compare(f"{first},{tmp_path / 'b.npz'}", tmp_path / "out")
    assert "split 1: crop differs: 8, 16" in capsys.readouterr().err
    models = json.loads((tmp_path / "out" / "compare.json").read_text())["models"]
    assert [model["protocols"][0]["crop"] for model in models] == [8, 16]
