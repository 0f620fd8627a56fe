"""The embedded clips: their ceilings, motions and files. Their pixels: test_leaks.py."""

import csv
import dataclasses
import hashlib
import itertools
import subprocess
import sys
from collections import Counter, defaultdict

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from scipy.optimize import linprog
from scipy.stats import chisquare

from data import synthesize

CLASSES = list(synthesize.CLASSES)
MODELS = list(synthesize.ceilings())
STARTS = synthesize.FIELDS - synthesize.LENGTH + 1  # of the snippets of a clip
CLIPS = 4  # per class, in files


def program(label, seed=0):
    return synthesize.sample_program(label, np.random.default_rng(seed))


def play(label, script, phase):
    """The program of one script at one phase; places and textures do not matter to `observe`."""
    sprites = tuple(
        synthesize.Sprite(colour, motion, (0.0, 0.0), (phase, phase), 0)
        for colour, motion in script
    )
    return synthesize.Program(label, sprites, 0)


def every_program():
    """All latent variables that `observe` depends on, each equally likely within its class."""
    for label, scripts in synthesize.CLASSES.items():
        for script, phase in itertools.product(scripts, range(synthesize.ROUND)):
            yield label, play(label, script, phase)


def joint(model):
    """P(observation, class) of `model`, exactly: {observation: [classes]}."""
    table = defaultdict(lambda: np.zeros(len(CLASSES)))
    for label, clip in every_program():
        share = len(synthesize.CLASSES[label]) * synthesize.ROUND * len(CLASSES)
        table[synthesize.observe(clip, model)][CLASSES.index(label)] += 1 / share
    return table


# The ceilings.


@pytest.mark.parametrize("model", [m for m in MODELS if m != "A"])
def test_ceiling_is_the_best_guess_from_what_the_model_sees(model):
    correct = np.zeros(len(CLASSES))
    for cell in joint(model).values():
        best = np.isclose(cell, cell.max())
        correct += cell * best / best.sum()
    ceiling = synthesize.ceilings()[model]
    np.testing.assert_allclose(correct.sum(), ceiling.overall, rtol=1e-9)
    np.testing.assert_allclose(
        correct * len(CLASSES), [ceiling.per_class[label] for label in CLASSES], rtol=1e-9
    )


def additive(cells, answers):
    """Whether some f_c(colours) + g_c(motions) is largest, in every cell, at the cell's answer."""
    colours, motions = (sorted({cell[i] for cell in cells}, key=repr) for i in (0, 1))
    one = np.eye(len(colours) + len(motions))
    rows = []
    for (colour, motion), answer in zip(cells, answers, strict=True):
        seen = one[colours.index(colour)] + one[len(colours) + motions.index(motion)]
        for other in set(range(len(CLASSES))) - {answer}:
            row = np.zeros((len(CLASSES), seen.size))
            row[other], row[answer] = seen, -seen
            rows.append(row.ravel())
    result = linprog(
        np.zeros(rows[0].size), A_ub=np.array(rows), b_ub=-np.ones(len(rows)), bounds=(None, None)
    )
    return result.status == 0


def test_ceiling_of_a_is_the_best_sum_of_scores():
    """By trying all rules: which of the two twins that a cell can be is named in it.

    Motions of the same likelihoods are one. Naming another kind gains nothing: only the Swing cells
    constrain each other, and there it costs what naming the wrong twin costs.
    """
    exact = joint("A")
    likelihoods = defaultdict(dict)
    for (colours, motions), cell in exact.items():
        likelihoods[motions][colours] = tuple(cell.round(9))
    cells = defaultdict(lambda: np.zeros(len(CLASSES)))
    for (colours, motions), cell in exact.items():
        cells[colours, tuple(sorted(likelihoods[motions].items()))] += cell
    assert len(cells) == 8  # red, blue: two axes and hops; both: two axes

    kinds = [[CLASSES.index(label) for label in twins] for twins in synthesize.TWINS.values()]
    choices = [next(k for k in kinds if cell[k].any()) for cell in cells.values()]
    best = np.zeros(len(kinds))  # share of all clips that are right, by kind
    for answers in itertools.product(*choices):
        right = np.zeros(len(CLASSES))
        for cell, answer in zip(cells.values(), answers, strict=True):
            right[answer] += cell[answer]
        score = right[np.array(kinds)].sum(1)
        if score.sum() > best.sum() + 1e-9 and additive(list(cells), answers):
            best = score
    ceiling = synthesize.ceilings()["A"]
    assert best.sum() == pytest.approx(ceiling.overall)
    stated = [ceiling.per_class[twins[0]] / len(kinds) for twins in synthesize.TWINS.values()]
    np.testing.assert_allclose(best, stated)


def test_sampled_programs_are_the_ones_that_the_ceilings_count():
    """Every script and phase of a class equally often, and nothing that was not enumerated."""
    exact = {model: joint(model) for model in MODELS}
    scripts, phases = defaultdict(Counter), Counter()
    for number, (_, clip) in enumerate(synthesize.programs("train", 400, seed=5)):
        scripts[clip.label][tuple((s.colour, s.motion) for s in clip.sprites)] += 1
        phases.update((clip.label, *phase) for s in clip.sprites for phase in enumerate(s.phases))
        if number % 20 == 0:
            for model in MODELS:
                seen = synthesize.observe(clip, model)
                assert exact[model][seen][CLASSES.index(clip.label)] > 0
    for label, expected in synthesize.CLASSES.items():
        assert set(scripts[label]) == set(expected)
        assert chisquare(list(scripts[label].values())).pvalue > 1e-3
        for axis in (0, 1):
            counts = [phases[label, axis, phase] for phase in range(synthesize.ROUND)]
            assert chisquare(counts).pvalue > 1e-3


def test_ceilings_cover_every_class_with_a_reason():
    for ceiling in synthesize.ceilings().values():
        assert set(ceiling.per_class) == set(CLASSES)
        assert ceiling.overall == pytest.approx(np.mean(list(ceiling.per_class.values())))
        assert ceiling.reason


# The motions.


@pytest.mark.parametrize("motion", ["clockwise", "counter"])
@pytest.mark.parametrize("phase", range(30))
def test_any_snippet_of_a_hop_holds_exactly_one_spoke(motion, phase):
    clip = play("HopClockwise", [("red", motion)], phase)
    step = np.diff(synthesize.path(clip.sprites[0]), axis=0)
    axis = np.degrees(np.arctan2(step[:, 1], step[:, 0])).round().astype(int) % 180
    moving = np.hypot(*step.T) > 0.1
    order = []
    for start in range(STARTS):
        window = slice(start, start + synthesize.LENGTH)
        spokes = set(axis[window][moving[window]])
        assert len(spokes) == 1
        order.append(spokes.pop())
    turn = [45, 165, 285 % 180] if motion == "clockwise" else [45, 285 % 180, 165]
    for i in range(STARTS - synthesize.TAU):
        assert order[i + synthesize.TAU] == turn[(turn.index(order[i]) + 1) % 3]


def test_clockwise_turns_right_on_the_screen():
    clip = play("HopClockwise", [("red", "clockwise")], 0)
    step = np.diff(synthesize.path(clip.sprites[0]), axis=0)
    out = step[[0, synthesize.TAU]]
    assert out[0, 0] * out[1, 1] - out[0, 1] * out[1, 0] > 0  # y points down


def test_one_frame_places_discs_alike_in_twins():
    """Mean and mean square of (x, y) at single frames, per colour and twin, agree to 4 sigma: from
    the middle of the frame, and from home, where a pixel already shows."""
    places = defaultdict(list)
    for _, clip in synthesize.programs("train", 400, seed=3):
        for sprite in clip.sprites:
            at = synthesize.path(sprite)[7]
            off = at - sprite.home
            places[clip.label, sprite.colour].append([*at, *at**2, *off, *off**2])
    for first, second in synthesize.TWINS.values():
        for colour in ("red", "blue"):
            a, b = np.array(places[first, colour]), np.array(places[second, colour])
            error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
            assert (np.abs(a.mean(0) - b.mean(0)) < 4 * error).all()


def test_discs_never_leave_the_middle_nor_meet():
    margin = (synthesize.SIZE - synthesize.CENTRE) // 2
    inside = slice(margin, synthesize.SIZE - margin)
    for label in CLASSES:
        for seed in range(30):
            clip = program(label, seed)
            paths = [synthesize.path(sprite) for sprite in clip.sprites]
            for path in paths:
                assert np.abs(path).max() + synthesize.RADIUS + 0.5 <= synthesize.CENTRE / 2
            if len(paths) == 2:
                assert np.hypot(*(paths[0] - paths[1]).T).min() >= 2 * synthesize.RADIUS + 2
            if seed < 2:
                empty = synthesize.render(dataclasses.replace(clip, sprites=()))
                changed = (synthesize.render(clip) != empty).any(axis=(0, 3))
                assert changed[inside, inside].any()
                changed[inside, inside] = False
                assert not changed.any()


def test_red_and_blue_have_one_luma():
    other = {"red": "blue", "blue": "red"}
    clip = program("ActRed")
    swapped = dataclasses.replace(
        clip,
        sprites=tuple(dataclasses.replace(s, colour=other[s.colour]) for s in clip.sprites),
    )
    first, second = synthesize.render(clip), synthesize.render(swapped)
    assert np.abs(first.astype(int) - second).max() > 100
    grey = [[cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames] for frames in (first, second)]
    assert np.abs(np.subtract(*np.array(grey, int))).max() <= 1  # rounding of the three channels


# The files.


def decode(file):
    reformat = VideoReformatter().reformat
    with av.open(str(file)) as video:
        frames = video.decode(video=0)
        return np.stack([reformat(frame, format="rgb24").to_ndarray() for frame in frames])


def digests(folder):
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("sprites")
    assert synthesize.synthesize(out, train=CLIPS, test=1, seed=0) == (CLIPS + 1) * len(CLASSES)
    return out


def test_same_seed_same_bytes_other_seed_other_bytes(data, tmp_path):
    again = tmp_path / "again"
    command = [sys.executable, synthesize.__file__, f"--out={again}", "--train=2", "--test=1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("18 clips of 6 classes")
    first, second = digests(data), digests(again)
    del second["labels.csv"]
    assert len(second) == 18
    assert second.items() <= first.items()  # more clips leave the first ones as they are

    synthesize.synthesize(tmp_path / "other", train=2, test=1, seed=1)
    assert not set(digests(tmp_path / "other").values()) & set(first.values())


def test_train_and_test_share_no_frame(data):
    train = {f.tobytes() for file in (data / "train").glob("*/*.avi") for f in decode(file)}
    test = {f.tobytes() for file in (data / "test").glob("*/*.avi") for f in decode(file)}
    assert len(test) == 4 * 6 + 2 * 10  # places of a swing, and of hops
    assert not train & test


def test_labels_name_every_clip_and_say_how_to_render_it(data):
    with open(data / "labels.csv", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    clips = synthesize.read_programs(data / "labels.csv")
    files = {name: f"{row['split']}/{row['class']}/{name}.avi" for name, row in rows.items()}
    assert sorted(files.values()) == sorted(
        str(file.relative_to(data)) for file in data.glob("*/*/*.avi")
    )
    for name, file in files.items():
        assert clips[name].label == rows[name]["class"] in synthesize.TWINS[rows[name]["kind"]]
        np.testing.assert_array_equal(decode(data / file), synthesize.render(clips[name]))


def test_programs_are_read_as_they_were_written(data):
    written = [*synthesize.programs("train", CLIPS, 0), *synthesize.programs("test", 1, 0)]
    assert synthesize.read_programs(data / "labels.csv") == dict(written)


@pytest.mark.parametrize("text", ["", "name,class\na,ActRed\n", "\n\n"])
def test_what_is_no_table_of_labels_is_refused(text, tmp_path):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=r"labels\.csv: no labels\.csv of data/synthesize\.py$"):
        synthesize.read_programs(tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train=0"], "--train is 0"),
        (["--test=-1"], "--test is -1"),
        (["--seed=-1"], "--seed is -1"),
        (["--train=1"], "files of other clips"),
    ],
)
def test_refusals_are_one_line(data, arguments, message, monkeypatch, capsys):
    before = digests(data)
    monkeypatch.setattr(sys, "argv", ["synthesize.py", f"--out={data}", *arguments])
    assert synthesize.main() == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert digests(data) == before


def test_an_unknown_class_is_refused():
    with pytest.raises(ValueError, match="'Walk' is none of SwingMatched"):
        program("Walk")
