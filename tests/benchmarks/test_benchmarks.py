"""What the benchmarks share: ratios that mean what they say, turns, and files of results."""

import json
import sys

import numpy as np
import pytest

from tests.conftest import load

comparison = load("benchmarks/comparison.py")
ROWS = [
    comparison.Row("a level", "a peer", ours=2.0, theirs=3.0, unit="ms"),
    comparison.Row("a net", "another peer", ours=2.0, theirs=3.0, unit="images/s"),
]


@pytest.fixture
def clock(monkeypatch):
    """A clock of which a call of `clock.work(name, seconds)` takes the seconds; pauses are free."""

    class Clock:
        now = 0.0
        calls: list[str] = []  # noqa: RUF012 (of one test)

        def work(self, name, seconds):
            self.calls.append(name)
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(comparison.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(comparison.time, "sleep", lambda _: None)
    return clock


@pytest.mark.parametrize(("unit", "better"), [("ms", True), ("px", True), ("images/s", False)])
def test_a_ratio_above_one_means_that_this_project_is_better(unit, better):
    row = comparison.Row("case", "peer", ours=4.0, theirs=8.0, unit=unit)
    assert row.ratio == (2 if better else 0.5)


def test_a_repetition_measures_each_in_turn(clock):
    runs = [lambda: clock.work("ours", 1.0), lambda: clock.work("theirs", 2.0)]
    assert comparison.in_turn(runs, 3) == [1.0, 2.0]
    assert clock.calls == ["ours", "theirs"] * 4  # once before, to see how long they take


def test_the_median_leaves_out_what_slows_one_repetition(clock):
    seconds = iter([1.0, 1.0, 50.0, 2.0])
    assert comparison.in_turn([lambda: clock.work("ours", next(seconds))], 3) == [2.0]


def test_short_calls_are_measured_many_at_once(clock):
    (seconds,) = comparison.in_turn([lambda: clock.work("ours", comparison.SHORTEST / 10)], 2)
    assert seconds == pytest.approx(comparison.SHORTEST / 10)
    assert len(clock.calls) in (21, 23)  # once before, then ten (or by rounding eleven) twice


def test_what_fails_is_told_and_left_out(clock, capsys):
    def fail():
        raise RuntimeError("no such operator")

    names = comparison.ranked(
        {"slow": lambda: clock.work("", 3.0), "none": fail, "fast": lambda: clock.work("", 1.0)}, 1
    )
    assert names == ["fast", "slow"]
    assert capsys.readouterr().err == "none fails: RuntimeError: no such operator\n"


@pytest.mark.parametrize(
    "wrong", [np.ones(4), np.ones(3) * 1.02, np.array([1.0, 1.0, np.nan])], ids=str
)
def test_results_that_differ_are_refused(wrong):
    with pytest.raises(ValueError, match=r"a case: result 1, \(.\,\) here and \(3,\) there"):
        comparison.check_equal("a case", [np.ones(3), wrong], [np.ones(3), np.ones(3)], 1e-2)


def test_results_may_round_and_one_that_is_zero_may_too():
    ours = [np.ones(3) * 1.001, np.array([1e-7])]
    comparison.check_equal("a case", ours, [np.ones(3), np.array([-1e-7])], 1e-2)


def test_results_are_written_with_their_circumstances(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("what was there")
    comparison.write(path, ROWS, ["numpy"])
    content = json.loads(path.read_text())
    assert list(tmp_path.iterdir()) == [path]
    assert set(content) == {"hardware", "versions", "rows"}
    assert content["hardware"]["cores"] >= 1
    assert content["hardware"]["cpu"]
    assert content["versions"]["numpy"] == np.__version__
    first = {"case": "a level", "peer": "a peer", "ours": 2.0, "theirs": 3.0, "unit": "ms"}
    assert content["rows"][0] == {**first, "ratio": 1.5}


def test_the_table_is_aligned_and_passes_its_rows_on(capsys):
    assert list(comparison.tabulated(ROWS, ["numpy"])) == ROWS
    *header, blank, names, first, second = capsys.readouterr().out.splitlines()
    assert f"numpy {np.__version__}" in header[1]
    assert blank == ""
    for column, cells in (("unit", ("ms", "images/s")), ("peer", ("a peer", "another peer"))):
        place = names.index(column)
        assert (first[place:].split("  ")[0], second[place:].split("  ")[0]) == cells


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--repetitions=0", "--repetitions=0: at least 1"),
        ("--json=nowhere/results.json", "--json=nowhere/results.json: there is no folder"),
    ],
)
def test_bad_options_end_before_anything_is_timed(argument, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stcb.py", argument])
    with pytest.raises(SystemExit, match="2"):
        comparison.options("A benchmark.")
    assert message in capsys.readouterr().err


def test_a_peer_that_is_not_installed_is_named_in_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        comparison.require("json", "no_such_peer")
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")  # PyTorch says it once a process
def test_the_fusion_is_compared_and_written(tmp_path, monkeypatch, capsys):
    """Results and gradients of all forms agree, or the program ends with an error."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend("benchmarks")
    stcb = load("benchmarks/stcb.py")
    path = tmp_path / "stcb.json"
    monkeypatch.setattr(stcb, "QUICK", ("level 3",))
    monkeypatch.setattr(sys, "argv", ["stcb.py", "--quick", "--repetitions=1", f"--json={path}"])
    stcb.main()
    content = json.loads(path.read_text())
    (row,) = content["rows"]
    assert row["case"] == "level 3, forward+backward"
    assert row["ratio"] == pytest.approx(row["theirs"] / row["ours"])
    (note,) = content["notes"]["roofline"]
    # Three vectors and their gradients, the result and its cotangent, of float32.
    vectors = (6 * 1024 + 2 * 4096) * 32 * 4 / 1e6
    assert note["inputs and results, MB"] == pytest.approx(vectors, rel=0.1)
    assert "level 3, forward+backward" in capsys.readouterr().out
