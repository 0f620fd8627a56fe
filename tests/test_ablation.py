"""The ablation: its rows are the paper's models, runs are not repeated, tables say what was run."""

import csv
import json
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from configs import hmdb51, quickstart, ucf10, ucf101
from stpyramid_jax.ablation import run as ablation
from stpyramid_jax.ablation.rows import ROWS, TABLES, choose_rows, choose_seeds
from stpyramid_jax.ablation.table import Result, lines, write_tables
from stpyramid_jax.experiment import build_experiment, run_record, write_record
from stpyramid_jax.models.pyramid import named_model
from stpyramid_jax.training.interruption import EXIT_CODE, Interrupted
from tests.training.conftest import ends, start, wait_for_steps

SHARDS = SimpleNamespace(
    name="clips",
    digest="0" * 64,
    classes=("a", "b"),
    parameters={"size": [72, 72], "flow": {"method": "tvl1"}},
)


def experiment(row, config=quickstart, argument="", seed=0, **training):
    config = config.get_config(argument)
    config.training.update(training)
    return ablation.row_experiment(config.to_dict(), ROWS[row], seed, num_classes=2)


# The rows.


@pytest.mark.parametrize("config", [quickstart, ucf10, ucf101, hmdb51])
def test_each_row_is_a_model_of_its_own_with_every_config(config):
    models = [experiment(row, config).model for row in ROWS]
    assert len(set(models)) == len(ROWS) == sum(len(rows) for rows in TABLES.values()) == 15


@pytest.mark.parametrize("row", ROWS)
def test_a_row_hangs_on_nothing_of_the_model_that_the_config_names(row):
    assert experiment(row, argument="model=A") == experiment(row, argument="model=D")


@pytest.mark.parametrize("row", ["spatial", "temporal", "A", "B", "C", "D"])
def test_rows_with_the_name_of_a_model_are_that_model(row):
    built = build_experiment(quickstart.get_config(f"model={row}").to_dict(), 2)
    model, found = built.model, experiment(row).model
    for key in named_model(row):
        assert getattr(found, key) == getattr(model, key)
    assert (found.snippets, found.temporal_fusion) == (3 if row in "CD" else 1, "stcb")


def test_scores_of_streams_beside_the_pyramid_are_of_no_row():
    config = quickstart.get_config("model=D")
    config.model.stream_scores = True
    for row in ("A", "D"):
        with pytest.raises(ValueError, match=r"^model\.stream_scores=True: no row .* leave it out"):
            ablation.row_experiment(config.to_dict(), ROWS[row], 0, num_classes=2)


def test_columns_of_the_paper():
    """Which streams, how many snippets: by the words of the tables."""
    for title, rows in TABLES.items():
        for row in rows:
            model = experiment(row.name).model
            alone = {"Flow": "temporal", "Frames": "spatial", "Both:": "both"}
            assert model.streams == alone[title.split()[0]]
            for number in re.findall(r"\d", row.label):
                assert model.snippets == int(number)
            assert model.attention == ("attention" in row.label)


def test_rows_are_chosen_by_name_in_the_order_of_the_tables():
    assert [row.name for row in choose_rows(())] == list(ROWS)
    assert [row.name for row in choose_rows(["D", "temporal", "D"])] == ["temporal", "D"]
    assert choose_seeds(["2", "0", "02"]) == (2, 0)


@pytest.mark.parametrize(
    ("choose", "texts", "expected"),
    [
        (choose_rows, ["E"], ["row 'E': one of temporal, sum3"]),
        (
            choose_rows,
            ["atend1", "D", "stc\nb3"],
            ["did you mean attend1?", "row 'stc\\nb3': one"],
        ),
        (choose_seeds, [], ["no seed; give some"]),
        (choose_seeds, ["0", "-1", "x"], ["seed '-1': numbers of up", "seed 'x': numbers"]),
        (choose_seeds, ["²", "1" * 10], ["seed '²'", "seed '1111111111'"]),
        (choose_seeds, [""], ["seed ''"]),
    ],
)
def test_unknown_rows_and_seeds_get_a_line_each(choose, texts, expected):
    with pytest.raises(ValueError, match=re.escape(expected[0])) as refused:
        choose(texts)
    found = str(refused.value).splitlines()
    assert len(found) == len(expected)
    for line, text in zip(found, expected, strict=True):
        assert text in line


def test_weights_go_to_the_streams_of_a_row_by_seed():
    """Of the pyramid's stage, where a source for a stream that is not there is refused."""
    spec = "spatial=s/{seed},temporal=t/x=1,y/{seed}"
    expected = {
        "spatial": "spatial=s/7",
        "temporal": "temporal=t/x=1,y/7",
        "attend1": "spatial=s/7,temporal=t/x=1,y/7",
        "D": "spatial=s/7,temporal=t/x=1,y/7",
    }
    for row, weights in expected.items():
        assert experiment(row, seed=7, weights=spec).training.weights == weights
    assert experiment("spatial", weights="all.npz").training.weights == "spatial=all.npz"
    assert experiment("D", weights="").training.weights == ""


# The tables.


def summary(accuracy, **changed):
    protocol = {"dataset": "clips", "split": "split1", "num_clips": 6, "protocol": "2 x 1"}
    return {"mean_class_accuracy": accuracy, "crop": 64, **protocol, **changed}


RESULTS = [
    Result("temporal", 0, summary(0.3)),
    Result("A", 0, summary(0.5)),
    Result("A", 1, summary(0.6)),
    Result("B", 0, summary(0.7)),
    Result("B", 1, summary(0.9)),
    Result("D", 1, summary(1.0)),
]


def test_means_spreads_and_gains_by_seed():
    found = {line.row: line for line in lines(RESULTS)}
    assert list(found) == ["temporal", "A", "B", "D"]
    a, b, d = (found[name] for name in "ABD")
    assert (a.n, a.mean, a.gain) == (2, pytest.approx(0.55), None)
    assert a.std == pytest.approx(np.sqrt(2 * 0.05**2))
    assert (b.mean, b.gain) == (pytest.approx(0.8), pytest.approx(0.25))
    assert b.gain_std == pytest.approx(np.std([0.2, 0.3], ddof=1))
    assert (d.n, d.std, d.gain, d.gain_std) == (1, None, pytest.approx(0.1), None)  # seed 1: B .9
    assert (d.paper, found["temporal"].paper) == (0.946, 0.87)


def test_files_and_text_hold_the_same(tmp_path):
    text = write_tables(tmp_path, RESULTS)
    assert (tmp_path / "ablation.txt").read_text() == text + "\n"

    def number(constant):
        raise AssertionError(constant)  # NaN is no JSON

    whole = json.loads((tmp_path / "ablation.json").read_text(), parse_constant=number)
    with open(tmp_path / "ablation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    shown = [line.split() for line in text.splitlines() if line.startswith("  ")]
    shown = [cells for cells in shown if cells[0] != "mean"]
    assert len(rows) == len(shown) == len(whole["rows"]) == 4
    for row, cells, line in zip(whole["rows"], shown, rows, strict=True):
        assert row["mean"] == pytest.approx(np.mean(list(row["accuracies"].values())))
        assert float(line["mean"]) == pytest.approx(row["mean"])
        assert (line["gain_std"] == "") == (row["gain_std"] is None)
        assert f"{100 * row['mean']:.1f}" in cells
        assert (cells[-2], cells[-1]) == (str(row["n"]), f"{100 * row['paper']:.1f}")
    assert "6 test clips of clips split1, 2 x 1, crop 64, seeds 0, 1" in text
    assert text.count("Both: ") == 1
    assert "Frames alone" not in text


# The runs, with a training that only writes down that it was called.


@pytest.fixture
def trained(monkeypatch):
    """Names of the runs that are trained, in order."""
    calls = []

    def train(experiment, shards, workdir, validate):
        write_record(workdir, run_record(experiment, shards))
        calls.append(f"{workdir.parent.name}{workdir.name[-1]}")

    def evaluate(experiment, shards, workdir):
        views = f"{experiment.evaluation.positions} x 1"
        found = summary(len(calls) / 100, protocol=views)
        (workdir / "summary.json").write_text(json.dumps(found))
        return workdir

    monkeypatch.setattr(ablation.loop, "train", train)
    monkeypatch.setattr(ablation.protocol, "validator", lambda experiment, shards: None)
    monkeypatch.setattr(ablation.protocol, "evaluate", evaluate)
    return calls


def ablate(workdir, rows, seeds="01", rate=0.02, threads=0, **evaluation):
    config = quickstart.get_config()
    config.optimizer.learning_rate, config.input.threads = rate, threads
    config.evaluation.update(evaluation)
    return ablation.ablate(config.to_dict(), SHARDS, workdir, seeds, rows)


def test_what_has_ended_is_not_repeated(trained, tmp_path):
    first = ablate(tmp_path, "AB")
    assert trained == ["A0", "B0", "A1", "B1"]
    assert ablate(tmp_path, "AB") == first
    assert len(trained) == 4
    (tmp_path / "B" / "seed0" / "result.json").unlink()  # killed before it was written
    ablate(tmp_path, "ABC")
    assert trained[4:] == ["B0", "C0", "C1"]


def test_what_ended_with_another_config_is_run_again(trained, tmp_path):
    ablate(tmp_path, "A", positions=2)
    ablate(tmp_path, "A", positions=3)
    assert trained == ["A0", "A1"] * 2


def test_a_network_is_not_given_out_as_that_of_another_training(trained, tmp_path):
    ablate(tmp_path, "B", rate=0.01)
    with pytest.raises(
        ValueError, match=r"trained otherwise \(optimizer\.learning_rate 0\.01 there"
    ):
        ablate(tmp_path, "AB", rate=0.02)
    assert trained == ["B0", "B1"]
    ablate(tmp_path, "B", rate=0.01, threads=3)
    assert trained == ["B0", "B1"]


def test_rows_of_another_training_are_marked(trained, tmp_path):
    assert "*" not in ablate(tmp_path, "AB", rate=0.01)
    lines = ablate(tmp_path, "C", rate=0.02).splitlines()
    marked = [line.split()[0] for line in lines if line.endswith(" *")]
    assert marked == ["A:", "B:"]
    assert lines[-1] == "* trained by another config than the last run"


def test_a_table_holds_all_that_was_run_by_one_protocol(trained, tmp_path):
    ablate(tmp_path, "AB", positions=2)
    assert "A: scores" in ablate(tmp_path, "C", positions=2)
    text = ablate(tmp_path, "B", positions=3)
    assert "B: features" in text
    assert "A: scores" not in text
    assert "C: and" not in text


def test_rows_that_were_done_stand_in_the_files_while_others_run(trained, tmp_path, monkeypatch):
    def stop(*_):
        if len(trained) == 2:
            raise FloatingPointError("loss is nan")
        return train(*_)

    train = ablation.loop.train
    monkeypatch.setattr(ablation.loop, "train", stop)
    with pytest.raises(FloatingPointError):
        ablate(tmp_path, "ABC")
    rows = json.loads((tmp_path / "ablation.json").read_text())["rows"]
    assert [row["row"] for row in rows] == ["A", "B"]


def test_a_signal_between_trainings_stops_before_the_next(trained, tmp_path, monkeypatch):
    evaluate = ablation.protocol.evaluate

    def asked(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return evaluate(*arguments)

    monkeypatch.setattr(ablation.protocol, "evaluate", asked)
    with pytest.raises(Interrupted, match=r"stopped before .*seed1: run the same again"):
        ablate(tmp_path, "A")
    monkeypatch.setattr(ablation.protocol, "evaluate", evaluate)
    ablate(tmp_path, "A")
    assert trained == ["A0", "A1"]  # what was under way had ended


def test_bad_input_is_refused_before_any_run(trained, tmp_path):
    for rows, seeds in ((["E"], "0"), (["A"], ["one"]), (["A"], "")):
        with pytest.raises(ValueError, match=r"row 'E'|seed 'one'|no seed"):
            ablate(tmp_path, rows, seeds)
    config = quickstart.get_config()
    config.model.guidance = "maps"
    with pytest.raises(ValueError, match="did you mean 'map'"):
        ablation.ablate(config.to_dict(), SHARDS, tmp_path, "0")
    assert not trained
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["result.json", "config.json"])
@pytest.mark.parametrize("text", ['{"run": {"seed"', "[1]", '"a"', ""])
def test_a_damaged_file_of_a_run_is_named(trained, tmp_path, name, text):
    ablate(tmp_path, "A", "0")
    path = tmp_path / "A" / "seed0" / name
    path.write_text(text)
    with pytest.raises(ValueError, match="damaged") as refused:
        ablate(tmp_path, "A", "0")
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


# The program.


def begin(shards, workdir, *more):
    steps = ("--config.training.steps=6", "--config.training.log_every=1")
    whole = ("--config.data.validation=0",)
    return start(shards, workdir, "--mode=ablation", *steps, *whole, *more, devices=2)


@pytest.mark.slow
def test_stopped_and_started_again_the_program_ends_with_the_same_table(sprites, tmp_path):
    shards, rows = sprites / "shards", ("--rows=attend1", "--seeds=0,3")
    ((whole, _),) = ends([begin(shards, tmp_path / "whole", *rows)])
    process = begin(shards, tmp_path / "again", *rows)
    wait_for_steps(tmp_path / "again" / "attend1" / "seed3", 2, process)
    process.send_signal(signal.SIGTERM)
    ((_, error),) = ends([process], expect=EXIT_CODE)
    assert "is saved: run the same again" in error.strip().splitlines()[-1]
    ((again, error),) = ends([begin(shards, tmp_path / "again", *rows)])
    assert again == whole
    assert "attend1/seed0" not in error
    assert "resumed from step" in error
    scores = [
        {path.relative_to(folder): np.load(path)["scores"] for path in folder.rglob("scores.npz")}
        for folder in (tmp_path / "whole", tmp_path / "again")
    ]
    assert len(scores[0]) == 2
    for path, expected in scores[0].items():
        np.testing.assert_array_equal(scores[1][path], expected)


@pytest.mark.slow
def test_wrong_flags_get_one_line(sprites, tmp_path):
    for flag, message in (("--rows=atend1", "did you mean attend1?"), ("--seeds=a", "seed 'a'")):
        ((_, error),) = ends([begin(sprites / "shards", tmp_path, flag)], expect=2)
        last = error.strip().splitlines()[-1]
        assert last.startswith("error: ")
        assert message in last
