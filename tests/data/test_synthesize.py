"""The embedded clips hold what their ceilings say: no more (leaks) and no less (oracles)."""

import csv
import dataclasses
import hashlib
import importlib.util
import itertools
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from scipy.optimize import linprog
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SCRIPT = Path(__file__).parents[2] / "data" / "synthesize.py"
SPEC = importlib.util.spec_from_file_location("synthesize", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
synthesize = sys.modules["synthesize"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(synthesize)

CLASSES = list(synthesize.CLASSES)
MODELS = list(synthesize.ceilings())
LUMA = np.array([0.299, 0.587, 0.114])
STARTS = synthesize.FIELDS - synthesize.LENGTH + 1  # of the snippets of a clip
CLIPS = 30  # per class, for the leaks


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


@pytest.mark.parametrize("model", [m for m in MODELS if m != "A"])
def test_sampled_programs_reach_the_ceiling_and_do_not_pass_it(model):
    """Majority vote per observation, learnt on sampled programs and scored on others."""
    count = 200
    votes, correct = defaultdict(Counter), 0
    for split in ("train", "test"):
        for _, clip in synthesize.programs(split, count, seed=5):
            seen = synthesize.observe(clip, model)
            if split == "train":
                votes[seen][clip.label] += 1
            elif seen in votes:
                correct += votes[seen].most_common(1)[0][0] == clip.label
    ceiling, total = synthesize.ceilings()[model].overall, count * len(CLASSES)
    error = 3 * np.sqrt(ceiling * (1 - ceiling) / total)
    # An observation of the test half that the first half did not have counts as wrong.
    assert ceiling - error - 0.03 <= correct / total <= ceiling + error


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
    """Mean and mean square of (x, y) at single frames, per colour and twin, agree to 4 sigma."""
    places = defaultdict(list)
    for _, clip in synthesize.programs("train", 400, seed=3):
        for sprite in clip.sprites:
            at = synthesize.path(sprite)[7]
            places[clip.label, sprite.colour].append([*at, *at**2])
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


@pytest.fixture(scope="module")
def clips(data):
    """(class, frames [N, 72, 72, 3], DIS flow of their luma [N - 1, 72, 72, 2]) for training."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # frames this small are slower with more
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    result = []
    for label in CLASSES:
        for file in sorted((data / "train" / label).iterdir()):
            frames = decode(file)
            grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
            flow = [dis.calc(a, b, None) for a, b in itertools.pairwise(grey)]  # pyright: ignore
            result.append((label, frames, np.stack(flow)))
    cv2.setNumThreads(threads)
    return result


def test_same_seed_same_bytes_other_seed_other_bytes(data, tmp_path):
    again = tmp_path / "again"
    command = [sys.executable, SCRIPT, f"--out={again}", "--train=2", "--test=1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("18 clips of 6 classes")
    first, second = digests(data), digests(again)
    del second["labels.csv"]
    assert len(second) == 18
    assert second.items() <= first.items()  # more clips leave the first ones as they are

    synthesize.synthesize(tmp_path / "other", train=2, test=1, seed=1)
    assert not set(digests(tmp_path / "other").values()) & set(first.values())


def test_train_and_test_share_no_frame(data, clips):
    train = {frame.tobytes() for _, frames, _ in clips for frame in frames}
    test = {f.tobytes() for file in (data / "test").glob("*/*.avi") for f in decode(file)}
    assert len(test) == 4 * 6 + 2 * 10  # places of a swing, and of hops
    assert not train & test


def test_labels_name_every_clip_and_say_how_to_render_it(data):
    with open(data / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    files = {str(file.relative_to(data)) for file in data.glob("*/*/*.avi")}
    assert {f"{row['split']}/{row['class']}/{row['name']}.avi" for row in rows} == files
    for row in rows[:: CLIPS // 2]:
        sprites = tuple(
            synthesize.Sprite(
                row[f"colour{i}"],
                row[f"motion{i}"],
                (float(row[f"home_x{i}"]), float(row[f"home_y{i}"])),
                (int(row[f"phase_x{i}"]), int(row[f"phase_y{i}"])),
                int(row[f"texture{i}"]),
            )
            for i in (1, 2)
            if row[f"colour{i}"]
        )
        assert row["class"] in synthesize.TWINS[row["kind"]]
        frames = synthesize.render(synthesize.Program(row["class"], sprites, int(row["scene"])))
        video = decode(data / row["split"] / row["class"] / f"{row['name']}.avi")
        np.testing.assert_array_equal(video, frames)


def test_flow_sees_motion_where_the_discs_move_and_nowhere_else(data, clips):
    truth = dict(synthesize.programs("train", CLIPS, seed=0))
    y, x = np.mgrid[: synthesize.SIZE, : synthesize.SIZE] - (synthesize.SIZE - 1) / 2
    moving, still, scene = [], [], []
    for (label, _, flow), name in zip(clips, truth, strict=True):
        if not name.endswith("0"):
            continue
        away = np.ones(flow.shape[:3], bool)
        for sprite in truth[name].sprites:
            path = synthesize.path(sprite)
            for field, (place, step) in enumerate(zip(path, np.diff(path, axis=0), strict=False)):
                distance = np.hypot(x - place[0], y - place[1])
                error = np.hypot(*(flow[field][distance < 5].mean(0) - step))
                (moving if step.any() else still).append(error)
                away[field] &= distance > 16
        scene.append(np.hypot(*flow[away].T).mean())
        assert truth[name].label == label
    assert np.median(moving) < 0.4  # of 2 px
    assert np.median(still) < 0.1
    assert np.mean(scene) < 0.1


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


# Leaks and oracles, on the pixels of the files. For each kind of twins and each model, classifiers
# of features that the model's form offers stay at chance where the ceiling says so, and tell the
# twins where it says so (or the clips could be empty and nobody would notice).


def reds_and_blues(frames):
    """How red and how blue each pixel is, [2, N, h, w]."""
    green = frames[..., 1].astype(np.float32)
    return np.stack([np.maximum(frames[..., c] - green - 30, 0) / 100 for c in (0, 2)])


def snippet_axes(magnitude, angle):
    """Share of each of 12 axes in the motion of every snippet, [STARTS, 12]."""
    bins = (angle % np.pi * 12 / np.pi).astype(int) % 12
    field = np.arange(len(bins))[:, None, None] * 12 + bins
    weights = np.where(magnitude > 0.7, magnitude, 0).ravel()
    fields = np.bincount(field.ravel(), weights, minlength=len(bins) * 12).reshape(-1, 12)
    windows = np.lib.stride_tricks.sliding_window_view(fields, synthesize.LENGTH, axis=0).sum(-1)
    return windows / (windows.sum(1, keepdims=True) + 1e-3)


def describe(frames, flow):
    """What the forms of the models can offer to a classifier, each a vector."""
    magnitude, angle = np.hypot(flow[..., 0], flow[..., 1]), np.arctan2(flow[..., 1], flow[..., 0])
    bins = ([0.5, 1, 1.5, 2, 3], np.linspace(-np.pi, np.pi, 13))
    directions = np.histogram2d(magnitude.ravel(), angle.ravel(), bins)[0].ravel()
    axes = snippet_axes(magnitude, angle)
    ycc: np.ndarray = cv2.cvtColor(frames[::5].reshape(-1, frames.shape[2], 3), cv2.COLOR_RGB2YCrCb)
    tones = [np.bincount(ycc[:, :, c].ravel() // 16, minlength=16) for c in range(3)]
    amounts = reds_and_blues(frames)
    pooled = amounts.sum((1, 2, 3)) / amounts.sum()
    moving = (amounts[:, :-1] * magnitude).sum((1, 2, 3))
    return {
        "colours": np.log1p(np.concatenate(tones)),
        "motions": np.concatenate([np.log1p(directions), axes.mean(0)]),
        "product": np.outer(pooled, axes.mean(0)).ravel(),
        "order": (axes[: -synthesize.TAU].T @ axes[synthesize.TAU :]).ravel(),
        "actor": moving / moving.sum(),
    }


OFFERS = {
    "spatial": ("colours",),
    "temporal": ("motions",),
    "B": ("colours", "motions", "product"),
    "C": ("colours", "product", "order"),
    "D": ("product", "order", "actor"),
}


@pytest.fixture(scope="module")
def described(clips):
    return [(label, describe(frames, flow)) for label, frames, flow in clips]


def accuracy(samples, labels, clip_of_sample, classifier):
    """Cross-validated accuracy over clips; the scores of a clip's samples are averaged."""
    folds = StratifiedGroupKFold(4, shuffle=True, random_state=0)
    scores = cross_val_predict(
        classifier, samples, labels, groups=clip_of_sample, cv=folds, method="predict_proba"
    )[:, 1]
    members = [clip_of_sample == clip for clip in np.unique(clip_of_sample)]
    return np.mean([(scores[m].mean() > 0.5) == labels[m][0] for m in members])


CLASSIFIERS = {
    "logistic": make_pipeline(StandardScaler(), LogisticRegression(C=0.3, solver="liblinear")),
    "forest": RandomForestClassifier(30, random_state=0),
}


def chance(count):
    """Three sigma above guessing one of two classes for `count` clips."""
    return 0.5 + 3 * np.sqrt(0.25 / count)


@pytest.mark.parametrize("kind", synthesize.TWINS)
@pytest.mark.parametrize("model", OFFERS)
def test_twins_differ_exactly_where_the_ceiling_says(described, kind, model):
    twins = synthesize.TWINS[kind]
    chosen = [(label, features) for label, features in described if label in twins]
    labels = np.array([label == twins[1] for label, _ in chosen])
    samples = np.stack([np.concatenate([f[name] for name in OFFERS[model]]) for _, f in chosen])
    each = np.arange(len(labels))
    best = max(accuracy(samples, labels, each, c) for c in CLASSIFIERS.values())
    if synthesize.ceilings()[model].per_class[twins[0]] == 1:
        assert best >= 0.95
    else:
        assert best <= chance(len(labels))


@pytest.mark.parametrize("kind", synthesize.TWINS)
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_single_frames_do_not_tell_twins_apart(clips, kind, classifier):
    """Places included: frames of 12 x 12 coloured pixels, scores averaged over a clip."""
    twins = synthesize.TWINS[kind]
    samples, labels, clip_of_sample = [], [], []
    for number, (label, frames, _) in enumerate(clips):
        for frame in frames[::12] if label in twins else ():
            small = cv2.resize(frame, (12, 12), interpolation=cv2.INTER_AREA)
            samples.append(small.astype(np.float32).ravel())
            labels.append(label == twins[1])
            clip_of_sample.append(number)
    result = accuracy(
        np.stack(samples), np.array(labels), np.array(clip_of_sample), CLASSIFIERS[classifier]
    )
    assert result <= chance(2 * CLIPS)


def test_flow_does_not_see_a_disc_that_stays(described):
    """Swing and Act are one to the temporal stream, so their four classes share its score."""
    chosen = [(label, f["motions"]) for label, f in described if not label.startswith("Hop")]
    labels = np.array([label.startswith("Act") for label, _ in chosen])
    samples = np.stack([motions for _, motions in chosen])
    for classifier in CLASSIFIERS.values():
        result = accuracy(samples, labels, np.arange(len(labels)), classifier)
        assert result <= chance(len(labels))
