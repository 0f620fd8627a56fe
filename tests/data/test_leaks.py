"""The pixels of the embedded clips hold what the ceilings say: no more (leaks), no less (oracles).

For each kind of twins and each model, classifiers of features that the model's form offers stay at
chance where the ceiling says so, and tell the twins where it says so (or the clips could be empty
and nobody would notice). The clips are as rendered: test_synthesize.py shows the files lossless.
"""

import itertools
from collections import defaultdict

import cv2
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data import synthesize

STARTS = synthesize.FIELDS - synthesize.LENGTH + 1  # of the snippets of a clip
CLIPS = 40  # per class


@pytest.fixture(scope="module")
def clips():
    """(program, frames [N, 72, 72, 3], DIS flow of their luma [N - 1, 72, 72, 2]) of each clip."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # frames this small are slower with more
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    dis.setFinestScale(1)
    result = []
    for _, program in synthesize.programs("train", CLIPS, seed=0):
        frames = synthesize.render(program)
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
        flow = [dis.calc(a, b, None) for a, b in itertools.pairwise(grey)]
        result.append((program, frames, np.stack(flow)))
    cv2.setNumThreads(threads)
    return result


def test_flow_sees_motion_where_the_discs_move_and_nowhere_else(clips):
    y, x = np.mgrid[: synthesize.SIZE, : synthesize.SIZE] - (synthesize.SIZE - 1) / 2
    moving, still, scene = [], [], []
    for program, _, flow in clips[::10]:
        away = np.ones(flow.shape[:3], bool)
        for sprite in program.sprites:
            path = synthesize.path(sprite)
            for field, (place, step) in enumerate(zip(path, np.diff(path, axis=0), strict=False)):
                distance = np.hypot(x - place[0], y - place[1])
                error = np.hypot(*(flow[field][distance < 5].mean(0) - step))
                (moving if step.any() else still).append(error)
                away[field] &= distance > 16
        scene.append(np.hypot(*flow[away].T).mean())
    assert np.median(moving) < 0.4  # of 2 px
    assert np.median(still) < 0.1
    assert np.mean(scene) < 0.1


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
    return [(program.label, describe(frames, flow)) for program, frames, flow in clips]


def accuracy(samples, labels, clip_of_sample, classifier):
    """Cross-validated accuracy over clips; the scores of a clip's samples are averaged."""
    folds = StratifiedGroupKFold(4, shuffle=True, random_state=0)
    scores = cross_val_predict(
        classifier, samples, labels, groups=clip_of_sample, cv=folds, method="predict_proba"
    )
    scores = np.asarray(scores)[:, 1]
    members = [clip_of_sample == clip for clip in np.unique(clip_of_sample)]
    return np.mean([(scores[m].mean() > 0.5) == labels[m][0] for m in members])


CLASSIFIERS = {
    "logistic": make_pipeline(StandardScaler(), LogisticRegression(C=0.3, solver="liblinear")),
    "forest": RandomForestClassifier(30, random_state=0),
}


def assert_chance(results, clips=2 * CLIPS):
    """Each accuracy over `clips` is within three sigma of guessing, and so is the mean of all, in
    which a leak that kinds share shows first."""
    assert max(results) <= 0.5 + 3 * np.sqrt(0.25 / clips)
    assert np.mean(results) <= 0.5 + 3 * np.sqrt(0.25 / (clips * len(results)))


@pytest.mark.parametrize("model", OFFERS)
def test_twins_differ_exactly_where_the_ceiling_says(described, model):
    at_chance = defaultdict(list)
    for first, second in synthesize.TWINS.values():
        chosen = [(label, features) for label, features in described if label in (first, second)]
        labels = np.array([label == second for label, _ in chosen])
        samples = np.stack([np.concatenate([f[name] for name in OFFERS[model]]) for _, f in chosen])
        results = {
            name: accuracy(samples, labels, np.arange(len(labels)), classifier)
            for name, classifier in CLASSIFIERS.items()
        }
        if synthesize.ceilings()[model].per_class[first] == 1:
            assert max(results.values()) >= 0.95
        else:
            for name, result in results.items():
                at_chance[name].append(result)
    for results in at_chance.values():
        assert_chance(results)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_single_frames_do_not_tell_twins_apart(clips, classifier):
    """Places included: frames of 12 x 12 coloured pixels, scores averaged over a clip."""
    results = []
    for twins in synthesize.TWINS.values():
        samples, labels, clip_of_sample = [], [], []
        for number, (program, frames, _) in enumerate(clips):
            for frame in frames[::12] if program.label in twins else ():
                small = cv2.resize(frame, (12, 12), interpolation=cv2.INTER_AREA)
                samples.append(small.astype(np.float32).ravel())
                labels.append(program.label == twins[1])
                clip_of_sample.append(number)
        results.append(
            accuracy(
                np.stack(samples),
                np.array(labels),
                np.array(clip_of_sample),
                CLASSIFIERS[classifier],
            )
        )
    assert_chance(results)


def test_flow_does_not_see_a_disc_that_stays(described):
    """Swing and Act are one to the temporal stream, so their four classes share its score."""
    chosen = [(label, f["motions"]) for label, f in described if not label.startswith("Hop")]
    labels = np.array([label.startswith("Act") for label, _ in chosen])
    samples = np.stack([motions for _, motions in chosen])
    for classifier in CLASSIFIERS.values():
        result = accuracy(samples, labels, np.arange(len(labels)), classifier)
        assert_chance([result], clips=4 * CLIPS)
