"""A video file as a source of views: what the model looks at, nothing else, and as evaluated."""

from collections import Counter
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from stpyramid_jax.evaluation import predict
from stpyramid_jax.input.config import InputConfig
from stpyramid_jax.input.pipeline import eval_batches
from stpyramid_jax.preparation.sources.decode import frames
from stpyramid_jax.preparation.sources.flow import flow_fields

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
        monkeypatch.setattr(predict, "flow_fields", None)  # not computed
    source = predict.Clip(clip.path, SIZE, "dis", config, positions=4)
    whole = Whole(clip, source)
    (batch,), (expected,) = (
        eval_batches(of, np.zeros(1, int), config, 4, 1, 4) for of in (source, whole)
    )
    assert batch.keys() == expected.keys() == {*config.inputs, "label", "video", "mask"}
    for name, array in expected.items():
        np.testing.assert_array_equal(batch[name], array, err_msg=name)
    # It holds what is asked for, and no more of a video that may be long.
    held = {("rgb", number) for number in source._frames}
    held |= {(motion, number) for number in source._fields}
    assert held == set(whole.asked)
    assert len(held) < len(clip.images)
