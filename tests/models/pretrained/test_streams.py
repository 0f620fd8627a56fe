"""Weights reach the streams that they are for, whole or not at all, and are reported."""

import re

import jax
import numpy as np
import pytest

from stpyramid_jax.models.backbones import BACKBONES, CAFFE, IMAGENET
from stpyramid_jax.models.pretrained import INPUTS, init_streams, weights_of, weights_per_stream
from stpyramid_jax.models.pretrained.streams import RULES, cross_modality, rule_of
from tests.models.pretrained.samples import flat, shapes_of, variables_of


def pyramid(channels=20, backbone="convnet"):
    """Variables of a pyramid with all parts that matter here, as zeros."""
    streams = {"spatial": shapes_of(backbone), "temporal": shapes_of(backbone, channels=channels)}
    zeros = {
        collection: {
            stream: jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes[collection])
            for stream, shapes in streams.items()
            if collection in shapes
        }
        for collection in ("params", "batch_stats")
    }
    zeros["params"]["head"] = {"kernel": np.ones((2, 5))}
    units = {"mean": np.zeros(3), "scale": np.ones(3)}
    return zeros | {
        "units": {"rgb": units, "flow": units},
        "sketch": {"level1": np.arange(4)},
    }


def weights(backbone="convnet", source="file", units=IMAGENET, channels=3):
    return weights_of(variables_of(backbone, channels=channels), source)._replace(units=units)


def stream_of(variables, stream):
    collections = {name: variables[name][stream] for name in ("params", "batch_stats")}
    return flat(collections)


def test_both_streams_are_loaded_and_reported():
    before, given = pyramid(), weights()
    given.arrays.update({"fc/kernel": np.ones((64, 7)), "fc/bias": np.ones(7)})
    after, report = init_streams(before, {"spatial": given, "temporal": given})
    assert report == [
        "spatial: 20 arrays loaded from file",
        "temporal: 20 arrays loaded from file, conv1/kernel averaged over RGB for 20 channels",
        "file: 2 not used (head): fc/bias, fc/kernel",
    ]
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, before)
    for stream in ("spatial", "temporal"):
        for path, array in stream_of(after, stream).items():
            expected = given.arrays[path]
            if (stream, path) == ("temporal", "conv1/kernel"):
                expected = np.repeat(expected.mean(2, keepdims=True), 20, axis=2)
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, expected, err_msg=path)
        for key in ("mean", "scale"):
            unit = after["units"][INPUTS[stream]][key]
            assert unit.dtype == np.float32
            np.testing.assert_array_equal(unit, np.float32(getattr(IMAGENET, key)))
    assert after["params"]["head"]["kernel"].all()
    assert after["sketch"] is not None
    assert not any(leaf.any() for leaf in stream_of(before, "spatial").values())
    assert before["units"]["rgb"]["scale"].all()


def test_streams_may_have_sources_of_their_own():
    before = pyramid()
    flow = weights(channels=20, source="flow", units=None)
    after, report = init_streams(before, {"temporal": flow})
    assert report == [
        "temporal: 20 arrays loaded from flow",
        "spatial: no weights given, starts fresh",
    ]
    np.testing.assert_array_equal(
        after["params"]["temporal"]["conv1"]["kernel"], flow.arrays["conv1/kernel"]
    )
    assert not any(leaf.any() for leaf in stream_of(after, "spatial").values())
    # A source that does not say its units leaves those of the model.
    assert after["units"]["flow"]["scale"].tolist() == [1, 1, 1]
    rgb = weights(source="rgb", units=CAFFE)
    both, report = init_streams(before, {"spatial": rgb, "temporal": flow})
    assert [line.split(":")[0] for line in report] == ["spatial", "temporal"]
    np.testing.assert_array_equal(both["units"]["rgb"]["mean"], np.float32(CAFFE.mean))


def test_cross_modality_is_the_mean_over_rgb_without_rescaling():
    """Ten grey channels answer 10/3 as strongly as three: nothing makes up for their number."""
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
    adapted = cross_modality(kernel, 10)
    assert adapted.shape == (3, 3, 10, 4)
    for channel in range(10):
        np.testing.assert_allclose(adapted[:, :, channel], kernel.mean(2), atol=1e-6)
    np.testing.assert_allclose(adapted.sum(2), kernel.sum(2) * 10 / 3, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_rules_cover_every_array_of_every_backbone(backbone):
    head = None if backbone == "convnet" else 1000
    rules = {path: rule_of(path) for path in flat(dict(shapes_of(backbone, head)))}
    first = [path for path, rule in rules.items() if rule == "first kernel"]
    assert first == [{"vgg16": "conv1_1/kernel", "vgg16_bn": "conv1_1/kernel"}.get(
        backbone, "conv1/kernel")]  # fmt: skip
    trunk = set(flat(dict(shapes_of(backbone))))
    assert {path for path, rule in rules.items() if rule == "head"} == set(rules) - trunk
    assert set(rules.values()) <= set(RULES)


@pytest.mark.parametrize("path", ["conv1/alpha", "kernel", "norm2/momentum", "conv1/kernel/ema"])
def test_a_path_without_a_rule_is_an_error(path):
    with pytest.raises(ValueError, match=rf"{path}: covered by 0 rules .*streams\.py"):
        rule_of(path)


def test_an_uncovered_parameter_of_a_stream_is_an_error():
    before = pyramid()
    before["params"]["temporal"] |= {"prelu": {"alpha": np.zeros(3)}}
    with pytest.raises(ValueError, match="prelu/alpha: covered by 0 rules"):
        init_streams(before, {"temporal": weights()})


def test_everything_wrong_is_listed_at_once_and_nothing_is_loaded():
    before, given = pyramid(), weights()
    del given.arrays["norm1/var"]
    given.arrays["norm2/bias"] = np.zeros(3, np.float32)
    given.arrays["conv1/kernel"] = np.ones((5, 5, 3, 16), np.float32)
    with pytest.raises(ValueError, match="nothing was loaded") as error:
        init_streams(before, {"spatial": given, "temporal": given})
    head, columns, *rows = str(error.value).splitlines()
    assert head == "weights do not fit, nothing was loaded:"
    assert columns.split() == ["array", "file", "has", "model", "needs"]
    assert sorted(tuple(re.split(r" {2,}", row.strip())) for row in rows) == sorted(
        (f"{stream}/{path}", held, need)
        for stream, channels in (("spatial", 3), ("temporal", 20))
        for path, held, need in (
            ("norm1/var", "missing", "(16,)"),
            ("norm2/bias", "(3,)", "(32,)"),
            ("conv1/kernel", "(5, 5, 3, 16)", f"(3, 3, {channels}, 16)"),
        )
    )
    assert not any(leaf.any() for leaf in stream_of(before, "spatial").values())


@pytest.mark.parametrize("channels", [10, 3])
def test_a_flow_kernel_of_another_length_does_not_fit(channels):
    """Only colours are averaged: the fields of a snippet have an order."""
    given = weights(channels=20)
    with pytest.raises(ValueError, match=rf"\(3, 3, 20, 16\) +\(3, 3, {channels}, 16\)"):
        init_streams(pyramid(channels), {"temporal": given})


def test_what_the_model_lacks_is_told():
    before, given = pyramid(), weights()
    given.arrays["layer9/conv1/kernel"] = np.ones(3, np.float32)
    given = given._replace(notes=("1 unexpected: ema.decay",))
    _, report = init_streams(before, {"spatial": given})
    assert report[-2:] == [
        "file: 1 unexpected: layer9/conv1/kernel",
        "file: 1 unexpected: ema.decay",
    ]
    del before["params"]["temporal"]
    with pytest.raises(ValueError, match="no stream temporal"):
        init_streams(before, {"temporal": given})
    _, report = init_streams(before, {})
    assert report == ["spatial: no weights given, starts fresh"]


def test_a_backbone_without_norms_needs_no_statistics():
    before = pyramid(backbone="squeezenet")
    assert "spatial" not in before["batch_stats"]
    after, report = init_streams(before, {"spatial": weights("squeezenet")})
    assert report[0] == "spatial: 50 arrays loaded from file"
    assert after["batch_stats"] == {}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", {}),
        ("torchvision/vgg16", dict.fromkeys(("spatial", "temporal"), "torchvision/vgg16")),
        ("temporal=a.npz", {"temporal": "a.npz"}),
        ("spatial=a.npz,temporal=b.npz", {"spatial": "a.npz", "temporal": "b.npz"}),
        ("temporal=b,spatial=a", {"spatial": "a", "temporal": "b"}),
        ("runs/lr=0.1,batch=8", dict.fromkeys(("spatial", "temporal"), "runs/lr=0.1,batch=8")),
        ("spatial=lr=0.1,batch=8,temporal=c,d", {"spatial": "lr=0.1,batch=8", "temporal": "c,d"}),
    ],
)  # fmt: skip
def test_a_config_names_sources_for_both_streams_or_each(spec, expected):
    assert weights_per_stream(spec) == expected


def test_a_source_for_all_is_for_the_streams_that_there_are():
    assert weights_per_stream("a.npz", ("spatial",)) == {"spatial": "a.npz"}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("spatial=", "spatial has no source"),
        ("spatial=,temporal=a", "spatial has no source"),
        ("spatial=a,spatial=b", "spatial is named twice"),
        ("spatial=a,temporal=b", "the model has no stream temporal, only spatial"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(spec, reason):
    streams = ("spatial",) if "only" in reason else ("spatial", "temporal")
    with pytest.raises(ValueError, match=rf"^training\.weights='{spec}': {reason}$"):
        weights_per_stream(spec, streams)


def test_what_a_stream_is_made_of_is_loaded_back_from_itself():
    """A stream that was trained alone initialises the same stream of a pyramid."""
    alone = variables_of("convnet", channels=20)
    given = weights_of(alone, "run")
    after, report = init_streams(pyramid(), {"temporal": given})
    assert report[0] == "temporal: 20 arrays loaded from run"
    jax.tree.map(
        np.testing.assert_array_equal,
        {name: after[name]["temporal"] for name in ("params", "batch_stats")},
        alone,
    )
