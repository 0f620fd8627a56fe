"""The folder of a report: its tables, its pictures, its page."""

import base64
import csv
import dataclasses
import html
import json
import re
import sys

import cv2
import numpy as np
import pytest

from stpyramid_jax.evaluation.observation import Observations
from stpyramid_jax.evaluation.report import gallery, table, write_report
from stpyramid_jax.evaluation.report.confusion import class_rows, confused_pairs
from stpyramid_jax.evaluation.report.curves import plot_curves, read_curves
from stpyramid_jax.evaluation.report.features import embed
from stpyramid_jax.evaluation.report.figures import class_colours, short
from stpyramid_jax.evaluation.scores import load

PROTOCOL = {"dataset": "toy", "split": "split1", "protocol": "1 x 1", "step": 5, "crop": 8}
PROTOCOL |= {"test_tau": 5, "motion": "flow", "digest": "ab" * 32, "clips_trained_on": 0}
# Names of folders, which class names are, may hold all of these.
HOSTILE = ["<script>fail()</script>", "quo\"te's & <b>", "$a_{b$ ü 拳 {{ 7 }}", "_" + "long" * 60]


def clips(per_class=6, classes=4, seed=0):
    """Scores of which most are right, labels and names."""
    labels = np.repeat(np.arange(classes), per_class)
    scores = np.random.default_rng(seed).normal(0, 1, (len(labels), classes))
    scores[np.arange(len(labels)), labels] += 1.5
    return scores, labels, [f"{i}/<i>&clip" for i in range(len(labels))]


def observed(labels, names=("frame", "motion", "attention")):
    """Pictures that tell their clip, and features of which those before fusion are noise."""
    rng = np.random.default_rng(1)

    def look(clip):
        pictures = {name: np.full((8, 12, 3), (10 * clip, 99, 9), np.uint8) for name in names}
        for picture in pictures.values():
            picture[4:] = 255
        return pictures

    noise, told = rng.normal(size=(len(labels), 7)), np.eye(labels.max() + 1)[labels]
    features = {"spatial": noise, "fused": told + 0.05 * noise[:, :1]}
    return Observations(told, features, None, look)


RUN = [
    {"step": 1, "loss": 2.0, "gradient_norm": 3.0, "gradient_norm/head": 2.0, "accuracy": 0.5},
    {"step": 2, "loss": 1.0, "validation/mean_class_accuracy": 0.25},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report of everything, of classes with hostile names, one of them without clips."""
    folder = tmp_path_factory.mktemp("report")
    scores, labels, names = clips()
    scores = np.concatenate([scores, np.full((len(scores), 1), -9.0)], axis=1)
    write_report(folder, scores, labels, names, [*HOSTILE, "none"], PROTOCOL, observed(labels), RUN)
    return folder


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_folder_holds_what_it_says(tmp_path):
    scores = np.array([[2.0, 1, 0], [0, 2, 1], [3, 2, 1], [0, 0, 1]])
    labels, names = np.array([0, 1, 1, 2]), ["a", "b", "c", "d"]
    summary = write_report(tmp_path, scores, labels, names, ["Hop", "Run", "Sit"], PROTOCOL)
    low, high = summary["mean_class_accuracy_interval"]
    assert 0 < low < summary["mean_class_accuracy"] < high <= 1
    assert json.dumps(summary, indent=2) + "\n" == (tmp_path / "summary.json").read_text()
    assert (summary["num_clips"], summary["top1"]) == (4, 0.75)
    assert summary["mean_class_accuracy"] == pytest.approx(2.5 / 3)
    assert (tmp_path / "per_class.csv").read_text().splitlines()[2] == "Run,2,1,0.5000,Hop"
    pairs = (tmp_path / "confused_pairs.csv").read_text().splitlines()
    assert pairs == ["true,predicted,clips,share", "Run,Hop,1,0.5000"]
    saved = load(tmp_path / "scores.npz")
    np.testing.assert_array_equal(saved.scores, scores)
    assert (saved.names, saved.protocol) == (tuple(names), PROTOCOL)
    assert f"mean class accuracy 83.3% ({low:.1%} to {high:.1%})" in table(tmp_path)
    assert "1 x 1, crop 8, tau 5, step 5:" in table(tmp_path)
    # Nothing was observed, nothing is known of a run.
    left = {path.name for path in tmp_path.iterdir()}
    tables = {"per_class.csv", "confused_pairs.csv", "confusion.png"}
    assert left == {"summary.json", "scores.npz", "report.html"} | tables
    text = (tmp_path / "report.html").read_text()
    assert not [part for part in ('id="clips"', 'id="features"', 'id="training"') if part in text]


def test_a_report_of_fused_scores_needs_no_views(tmp_path):
    protocol = {"dataset": "toy", "split": "split1", "protocol": "sum of 2", "weights": [1, 1.5]}
    write_report(tmp_path, *clips(), list("abcd"), protocol)
    assert "toy split1, 24 test clips, sum of 2:" in table(tmp_path)
    assert "<dt>weights</dt><dd>[1, 1.5]</dd>" in (tmp_path / "report.html").read_text()


def test_clips_that_were_trained_on_are_told_at_the_top(tmp_path, folder):
    write_report(tmp_path, *clips(), list("abcd"), PROTOCOL | {"clips_trained_on": 3})
    assert "3 of these clips were trained on" in (tmp_path / "report.html").read_text()
    assert "were trained on" not in (folder / "report.html").read_text()


def test_pairs_and_classes_against_counts():
    counts = np.array([[8, 2, 0, 0], [3, 1, 1, 0], [0, 2, 3, 0], [0, 0, 0, 0]])
    pairs = confused_pairs(counts, list("abcd"))
    assert [tuple(pair) for pair in pairs] == [
        ("b", "a", 3, 0.6),
        ("c", "b", 2, 0.4),
        ("a", "b", 2, 0.2),
        ("b", "c", 1, 0.2),
    ]
    rows = class_rows(counts, list("abcd"))
    assert [row.most_confused_with for row in rows] == ["b", "a", "b", ""]
    assert [row.accuracy for row in rows] == [0.8, 0.2, 0.6, None]


def test_every_picture_of_the_page_decodes_and_nothing_is_fetched(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'\b(?:src|href|url)\b[=(]\s*"?([^"\s>)]+)', text)
    pictures = [source for source in sources if source.startswith("data:image/")]
    assert all(source in pictures or source.startswith("#") for source in sources)
    shown = len(rows_of(folder / "gallery" / "gallery.csv"))
    assert len(pictures) == 3 * shown + 2  # the wheel, the curves
    for picture in pictures:
        content = base64.b64decode(picture.partition("base64,")[2], validate=True)
        assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED).min() < 255
    for path in [*folder.rglob("*.png")]:
        assert cv2.imread(str(path)).std() > 1, path


def test_names_are_text_and_nothing_else(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    bare, _, rest = text.partition('<script type="application/json" id="counts">')
    data, _, script = rest.partition("</script>")
    assert json.loads(data)["classes"][:4] == HOSTILE
    assert "<" not in data
    for name in HOSTILE[:2]:
        assert name not in text
        assert html.escape(name).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in bare
    assert "{{ 7 }}" in bare
    assert "<i>&clip" not in text
    assert (text.count("<script"), script.count("</script>")) == (2, 1)
    assert [row["class"] for row in rows_of(folder / "per_class.csv")][:4] == HOSTILE


def test_the_gallery_shows_the_surest(folder):
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8], [0.45, 0.55]])
    labels = np.array([0, 0, 1, 1, 1])
    assert gallery.choose(probabilities, labels) == {"wrong": [2, 1], "right": [0, 3]}
    assert gallery.choose(probabilities[:0], labels[:0]) == {"wrong": [], "right": []}
    many = np.tile([0.1, 0.9], (40, 1))
    assert len(gallery.choose(many, np.zeros(40, int))["wrong"]) == 12

    rows = rows_of(folder / "gallery" / "gallery.csv")
    kinds = [row["file"].split("-")[0] for row in rows]
    assert set(kinds) == {"wrong", "right"}
    for row, kind in zip(rows, kinds, strict=True):
        assert (row["true"] == row["predicted"]) == (kind == "right")
        assert float(row["predicted_probability"]) >= float(row["true_probability"])
        picture = cv2.imread(str(folder / "gallery" / f"{row['file']}-motion.png"))
        assert picture[0, 0, 2] == 10 * int(row["clip"].split("/")[0])  # red tells the clip
    sure = [float(r["predicted_probability"]) for r in rows if r["file"].startswith("wrong")]
    assert sure == sorted(sure, reverse=True)


def test_a_tie_is_wrong_wherever_it_is_shown(tmp_path):
    """The first of the tied classes is a clip's own, and once the last; the third clip is right."""
    scores, labels = np.array([[1.0, 1, 0], [0, 1, 1], [0, 0, 1]]), np.array([0, 2, 2])
    names, classes = list("abc"), ["Hop", "Run", "Sit"]
    summary = write_report(tmp_path, scores, labels, names, classes, PROTOCOL, observed(labels))
    assert summary["top1"] == pytest.approx(1 / 3)
    assert summary["mean_class_accuracy"] == pytest.approx(1 / 4)
    assert [row["correct"] for row in rows_of(tmp_path / "per_class.csv")] == ["0", "0", "1"]
    assert {row["predicted"] for row in rows_of(tmp_path / "confused_pairs.csv")} == {"Run"}
    shown = {row["clip"]: row for row in rows_of(tmp_path / "gallery" / "gallery.csv")}
    assert [shown[name]["file"][:5] for name in names] == ["wrong", "wrong", "right"]
    assert [shown[name]["predicted"] for name in names] == ["Run", "Run", "Sit"]


def test_an_earlier_evaluation_leaves_nothing_behind(folder, tmp_path):
    scores, labels, names = clips()
    write_report(tmp_path, scores, labels, names, list("abcd"), PROTOCOL, observed(labels), RUN)
    assert (tmp_path / "gallery" / "right-01-frame.png").exists()
    write_report(tmp_path, scores, labels, names, list("abcd"), PROTOCOL)
    left = {path.name for path in tmp_path.iterdir()}
    assert not left & {"gallery", "tsne.png", "tsne.csv", "curves.png", "curves.csv"}


def test_files_of_the_user_beside_the_gallery_s_are_left_alone(tmp_path):
    mine = tmp_path / "gallery" / "holiday" / "right-01-frame.png"
    mine.parent.mkdir(parents=True)
    for path in (mine, mine.parent.with_name("right-turn.png")):
        path.write_text("mine")
    scores, labels, names = clips()
    for observations in (observed(labels), None):
        write_report(tmp_path, scores, labels, names, list("abcd"), PROTOCOL, observations)
        written = (tmp_path / "gallery" / "gallery.csv").exists()
        assert written == (observations is not None)
        assert mine.read_text() == mine.parent.with_name("right-turn.png").read_text() == "mine"
    left = {path.name for path in (tmp_path / "gallery").iterdir()}
    assert left == {"holiday", "right-turn.png"}


def test_no_old_page_stands_beside_new_numbers(tmp_path):
    scores, labels, names = clips()
    write_report(tmp_path, scores, labels, names, list("abcd"), PROTOCOL)

    def stopped(clip):
        raise KeyboardInterrupt

    observations = dataclasses.replace(observed(labels), look=stopped)
    with pytest.raises(KeyboardInterrupt):
        write_report(tmp_path, scores, labels, names, list("abcd"), PROTOCOL, observations)
    assert (tmp_path / "summary.json").exists()
    assert not (tmp_path / "report.html").exists()


def test_neighbours_in_the_plane_are_neighbours_in_the_features():
    labels = np.repeat(np.arange(3), 15)
    rng = np.random.default_rng(0)
    told = 8 * np.eye(3)[labels] + rng.normal(0, 0.3, (45, 3))
    features = {"spatial": rng.normal(size=(45, 60)), "fused": told, "motion": np.ones((45, 4))}
    points = embed(features, labels)
    assert list(points) == ["spatial", "fused"]  # of what is all alike there is nothing to see
    share = {}
    for name, places in points.items():
        assert places.min() == 0
        assert places.max() == 1
        far = np.linalg.norm(places[:, None] - places, axis=-1) + np.diag([np.inf] * 45)
        share[name] = np.mean(labels[far.argmin(axis=1)] == labels)
    assert share["fused"] == 1
    assert share["spatial"] < 0.6
    np.testing.assert_array_equal(embed(features, labels)["fused"], points["fused"])


def test_of_few_clips_or_without_the_library_there_is_no_plane(monkeypatch, capsys):
    features = {"fused": np.random.default_rng(0).normal(size=(6, 3))}
    assert embed({"fused": features["fused"][:4]}, np.arange(4)) == {}
    assert embed(features, np.arange(6))["fused"].shape == (6, 2)  # each its own class
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    assert embed(features, np.arange(6)) == {}
    assert "pip install 'stpyramid-jax[report]'" in capsys.readouterr().err


def test_a_hundred_classes_fit(tmp_path):
    classes = [f"Class{k:03d}" for k in range(101)]
    labels = np.arange(101)
    write_report(tmp_path, np.eye(101), labels, classes, classes, PROTOCOL)
    assert len(set(class_colours(101))) == 101
    height, width = cv2.imread(str(tmp_path / "confusion.png")).shape[:2]
    assert 1500 < height < width < 3000
    text = (tmp_path / "report.html").read_text()
    assert text.count('class="right" x=') == 101
    assert "No clip is taken for another class." in text


def test_curves_survive_a_run_that_was_cut_off(tmp_path):
    lines = [json.dumps(metrics) for metrics in RUN]
    lines[1:1] = ["[1]", '{"loss": 3}', '{"step": 2, "accuracy": 0.75}', '{"step": 9, "loss": "x"}']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 3, "lo']))
    run = read_curves(tmp_path)
    assert run == [RUN[0], {"accuracy": 0.75} | RUN[1]]
    assert read_curves(tmp_path / "nowhere") == []


@pytest.mark.parametrize("norm", [0.0, -1.0])
def test_curves_need_no_positive_gradient_norm(norm, tmp_path):
    """What matplotlib warns of is an error here."""
    plot_curves([{"step": step, "gradient_norm": norm} for step in (1, 2)], tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_labels_are_short_and_printable():
    assert short("JumpRope") == "JumpRope"
    assert short("a\nb\x00") == "a�b�"
    assert len(short("x" * 99)) == 24
