"""What each row of the ablation sees, how the levels meet, and what a configuration may be."""

import functools
import itertools

import jax
import numpy as np
import pytest

from stpyramid_jax.models.backbones import BACKBONES
from stpyramid_jax.models.pyramid import MODELS, ModelConfig, create_model, named_model
from tests.models.small_pyramids import (
    SIDE,
    built,
    config_of,
    inputs_of,
    logits_change,
    variables_of,
)


@pytest.mark.parametrize("name", MODELS)
def test_outputs_have_their_shapes(name):
    forward, _, inputs = built(name)
    outputs = forward(inputs)
    assert outputs.logits.shape == (2, 5)
    assert np.isfinite(outputs.logits).all()
    assert (outputs.attention is not None) == (name == "D")
    streams = {"spatial": {"spatial"}, "temporal": {"temporal"}, "A": {"spatial", "temporal"}}
    assert set(outputs.streams) == streams.get(name, set())


def test_attention_is_a_distribution_over_positions():
    forward, _, inputs = built("D")
    attention = forward(inputs).attention
    assert attention.shape == (2, 2, 2)
    np.testing.assert_allclose(attention.sum((1, 2)), 1, rtol=1e-5)
    assert np.ptp(attention) > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_a_model_sees_the_streams_of_its_name(name):
    forward, _, inputs = built(name)
    other = inputs_of(config_of(name), seed=1)
    assert (logits_change(forward, inputs, rgb=other["rgb"]) > 1e-4) == (name != "temporal")
    assert (logits_change(forward, inputs, flow=other["flow"]) > 1e-4) == (name != "spatial")


@pytest.mark.parametrize(("name", "needed"), [("spatial", "rgb"), ("temporal", "flow")])
def test_an_unused_input_need_not_be_given(name, needed):
    forward, _, inputs = built(name)
    alone = forward({needed: inputs[needed]}).logits
    np.testing.assert_allclose(alone, forward(inputs).logits, rtol=1e-5)


# Motion


def test_warped_fields_are_fields():
    forward, variables, inputs = built("D")
    warped = create_model(config_of("D", motion="warped")).apply(variables, inputs, train=False)
    np.testing.assert_array_equal(warped.logits, forward(inputs).logits)


@pytest.mark.parametrize("name", ["temporal", "D"])
def test_rgb_differences_are_seen_in_the_place_of_flow(name):
    """And frames are all that is read for it."""
    forward, variables, inputs = built(name, motion="rgb_difference")
    other = inputs_of(config_of(name), seed=1)
    assert variables["params"]["temporal"]["conv1"]["kernel"].shape == (3, 3, 6, 16)
    assert logits_change(forward, inputs, frames=other["frames"]) > 1e-4
    assert logits_change(forward, inputs, flow=other["flow"]) == 0


def test_frames_are_seen_as_their_differences_in_the_units_of_rgb():
    """Naively: each frame less the one before, r, g, b, times the scale of RGB, to the backbone."""
    fields = {"snippets": 3, "temporal_fusion": "average", "snippet_length": 4}
    config = config_of("temporal", motion="rgb_difference", **fields)
    model, inputs = create_model(config), inputs_of(config)
    variables = variables_of(model, inputs)
    scale = np.array([0.02, 0.03, 0.05], np.float32)
    variables["units"]["flow"] = {"mean": np.array([9.0, 99.0, 199.0], np.float32), "scale": scale}
    frames = inputs["frames"].astype(np.float32)
    images = np.zeros((2, 3, SIDE, SIDE, 12), np.float32)
    for k, colour in itertools.product(range(4), range(3)):
        change = frames[:, :, k + 1, ..., colour] - frames[:, :, k, ..., colour]
        images[..., 3 * k + colour] = change * scale[colour]
    trunk = {name: tree["temporal"] for name, tree in variables.items() if "temporal" in tree}
    backbone = BACKBONES[config.backbone].module()
    pooled = np.mean([backbone.apply(trunk, images[:, t]).mean((1, 2)) for t in range(3)], 0)
    head = variables["params"]["temporal_head"]
    expected = pooled @ head["kernel"] + head["bias"]
    logits = model.apply(variables, inputs, train=False).logits
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    assert np.ptp(expected) > 1e-3


def test_differences_do_not_see_what_stands_still():
    """Bytes of every frame that grow by 55 leave each difference as it is, to the bit."""
    forward, _, inputs = built("temporal", motion="rgb_difference")
    dark = inputs["frames"] // 2
    np.testing.assert_array_equal(
        forward({"frames": dark}).logits, forward({"frames": dark + 55}).logits
    )


def test_rows_of_a_batch_do_not_meet():
    """Snippets are folded into the batch and must come back to their own row."""
    forward, _, inputs = built("D")
    swapped = forward(jax.tree.map(lambda x: x[::-1], inputs))
    np.testing.assert_allclose(swapped.logits[::-1], forward(inputs).logits, atol=1e-5)
    other = inputs_of(config_of("D"), seed=1)
    mixed = {key: np.stack([inputs[key][0], other[key][1]]) for key in inputs}
    np.testing.assert_allclose(forward(mixed).logits[0], forward(inputs).logits[0], atol=1e-5)


# The rows of the ablation


def test_a_is_the_weighted_mean_of_its_streams():
    """RGB : flow = 1 : 1.5."""
    forward, _, inputs = built("A")
    outputs = forward(inputs)
    expected = (outputs.streams["spatial"] + 1.5 * outputs.streams["temporal"]) / 2.5
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["B", "D"])
def test_stream_scores_are_those_of_a_beside_the_pyramid(name):
    forward, variables, inputs = built(name, stream_scores=True)
    outputs = forward(inputs)
    plain = create_model(config_of(name)).apply(variables, inputs, train=False)
    np.testing.assert_array_equal(outputs.streams["fused"], plain.logits)
    params, features = variables["params"], outputs.features
    alone = {
        stream: features[stream] @ params[f"{stream}_scores"]["kernel"]
        for stream in ("spatial", "temporal")
    }
    for stream, scores in alone.items():
        np.testing.assert_allclose(outputs.streams[stream], scores, rtol=1e-4, atol=1e-5)
    beside = (alone["spatial"] + 1.5 * alone["temporal"]) / 2.5
    np.testing.assert_allclose(outputs.logits, (plain.logits + beside) / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stream", ["spatial", "temporal"])
def test_streams_of_a_are_the_single_stream_models(stream):
    forward, variables, inputs = built("A")
    single = create_model(config_of(stream))
    mine = {
        collection: {key: value for key, value in tree.items() if key.startswith(stream)}
        for collection, tree in variables.items()
    } | {"units": variables["units"]}
    alone = single.apply(mine, inputs, train=False).logits
    np.testing.assert_allclose(forward(inputs).streams[stream], alone, atol=1e-5)


def test_b_sees_one_snippet():
    forward, _, inputs = built("B")
    assert config_of("B").snippets == 1
    three = np.repeat(inputs["flow"], 3, axis=1)
    with pytest.raises(ValueError, match=r"flow of shape \(2, 3, 16, 16, 4\): .*\[B, 1, H, W, 4\]"):
        forward(inputs | {"flow": three})


@pytest.mark.parametrize(
    ("name", "fusion", "sensitive"),
    [
        ("C", "stcb", True),
        ("D", "stcb", True),
        ("C", "concat", True),
        ("C", "average", False),
        ("C", "sum", False),
    ],
)
def test_order_of_the_snippets(name, fusion, sensitive):
    """Sketches tell them apart, a sum does not: it could not, were the ConvNet not shared."""
    forward, variables, inputs = built(name, temporal_fusion=fusion)
    change = logits_change(forward, inputs, flow=inputs["flow"][:, ::-1])
    assert change > 1e-2 if sensitive else change < 1e-4
    assert variables["params"]["temporal"]["conv1"]["kernel"].shape == (3, 3, 4, 16)


def test_average_of_equal_snippets_is_one_snippet():
    """And their sum is three times it."""
    config = config_of("temporal")
    single, variables, inputs = built("temporal")
    equal = {"flow": np.repeat(inputs["flow"], 3, axis=1)}

    def logits(fusion):
        model = create_model(config_of("temporal", snippets=3, temporal_fusion=fusion))
        return model.apply(variables, equal, train=False).logits

    assert config.snippets == 1
    expected = single(inputs).logits
    np.testing.assert_allclose(logits("average"), expected, atol=1e-5)
    np.testing.assert_allclose(logits("sum"), 3 * expected, atol=1e-5)


@pytest.mark.parametrize(("guidance", "local"), [("map", True), ("vector", False)])
def test_guidance_is_of_the_same_location_or_of_the_whole_map(guidance, local):
    """Motion in one corner, far from another, moves the other's scores only through a mean."""
    model = create_model(config_of("D", guidance=guidance))
    _, variables, _ = built("D")
    inputs = inputs_of(model.config, side=48)
    moved = inputs["flow"].copy()
    moved[:, :, :4, :4] = 255 - moved[:, :, :4, :4]

    def far_scores(inputs):
        """Differences of scores, which the sum of the softmax does not move."""
        logs = np.log(model.apply(variables, inputs, train=False).attention)
        return logs[:, 5, 3:5] - logs[:, 5, 5:]

    change = np.abs(far_scores(inputs | {"flow": moved}) - far_scores(inputs)).max()
    assert change < 1e-5 if local else change > 1e-4


def test_spatial_stream_may_be_pooled_by_the_attention_of_motion():
    forward, _, inputs = built("D", streams="spatial", stream_fusion="score")
    other = inputs_of(config_of("D"), seed=1)
    assert forward(inputs).attention.shape == (2, 2, 2)
    assert logits_change(forward, inputs, flow=other["flow"]) > 1e-5


@pytest.mark.parametrize("temporal_fusion", ["average", "sum", "concat", "stcb"])
@pytest.mark.parametrize("stream_fusion", ["score", "concat", "sum", "stcb"])
def test_every_choice_runs_or_says_why_not(temporal_fusion, stream_fusion):
    choices = itertools.product(
        ("spatial", "temporal", "both"), (True, False), ("map", "vector"), (1, 3)
    )
    for streams, attention, guidance, snippets in choices:
        fields = {
            "streams": streams,
            "attention": attention,
            "guidance": guidance,
            "snippets": snippets,
            "temporal_fusion": temporal_fusion,
            "stream_fusion": stream_fusion,
        }
        idle = (
            (guidance == "vector" and not attention)
            or (stream_fusion != "score" and streams != "both")
            or (temporal_fusion != "average" and snippets == 1)
        )
        if idle:
            continue  # the choice is of something that this model does not do
        if attention and streams == "temporal":
            with pytest.raises(ValueError, match=r"model\.attention=True, model\.streams='temp"):
                config_of(**fields)
            continue
        config = config_of(**fields)
        widths_differ = snippets == 3 and temporal_fusion in ("concat", "stcb")
        start = functools.partial(create_model(config).init_with_output, train=False)
        if stream_fusion == "sum" and streams == "both" and widths_differ:
            with pytest.raises(ValueError, match=r"model\.stream_fusion='sum': .*'concat' or"):
                jax.eval_shape(start, jax.random.key(0), inputs_of(config))
            continue
        outputs, _ = jax.eval_shape(start, jax.random.key(0), inputs_of(config))
        assert outputs.logits.shape == (2, 5)
        assert (outputs.attention is not None) == attention


# Sketches and parameters


def test_sketches_are_not_parameters_and_ignore_their_key():
    model = create_model(config_of("D", sketch_dims=(64, 64, 64)))
    inputs = inputs_of(model.config)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))
    assert not any(name.startswith("level") for name in shapes["params"])
    draw = jax.jit(lambda key: model.init(key, inputs, train=False)["sketch"])
    sketches, again = draw(jax.random.key(0)), draw(jax.random.key(9))
    jax.tree.map(np.testing.assert_array_equal, sketches, again)
    # Eight inputs in all, and no two share their hashes though their sizes are equal.
    hashes = [x["hash"][:64] for level in sorted(sketches) for x in sketches[level]["inputs"]]
    assert len(hashes) == 8
    assert len({hash.tobytes() for hash in map(np.asarray, hashes)}) == 8


def test_sizes_of_the_paper():
    """The last layer over 4096 bins has 413,797 parameters for 101 classes; STCB has none."""
    config = ModelConfig(num_classes=101, **named_model("D"))
    model, inputs = create_model(config), inputs_of(ModelConfig(101), side=64)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))
    params = variables["params"]
    assert set(params) == {"spatial", "temporal", "attention", "head"}
    assert sum(leaf.size for leaf in jax.tree.leaves(params["head"])) == 413_797
    assert sum(leaf.size for leaf in jax.tree.leaves(params["attention"])) == 131_136 + 65
    lengths = [x["hash"].size for x in variables["sketch"]["level3"]["inputs"]]
    assert lengths == [512, 512, 1024]


def test_jit_and_floating_bytes_change_nothing():
    forward, variables, inputs = built("D")
    jitted = jax.jit(functools.partial(create_model(config_of("D")).apply, train=False))
    floating = jax.tree.map(np.float32, inputs)
    expected = forward(inputs).logits
    np.testing.assert_allclose(jitted(variables, floating).logits, expected, atol=1e-4)


# Bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": "squeeznet"}, "model.backbone='squeeznet': .*did you mean 'squeezenet'"),
        ({"streams": "spatail"}, "model.streams='spatail': .*did you mean 'spatial'"),
        ({"motion": "flwo"}, "model.motion='flwo': one of flow, warped, .*did you mean 'flow'"),
        ({"motion": "rgb_diff"}, "model.motion='rgb_diff': .*did you mean 'rgb_difference'"),
        ({"temporal_fusion": "stbc"}, "model.temporal_fusion='stbc': .*did you mean 'stcb'"),
        ({"stream_fusion": "scores"}, "model.stream_fusion='scores': .*did you mean 'score'"),
        (
            {"stream_scores": True, "streams": "temporal", "attention": False},
            "model.stream_scores=True, model.streams='temporal'.*set model.streams='both'",
        ),
        (
            {"stream_scores": True, "stream_fusion": "score"},
            "model.stream_fusion='score': they are added to those of fused features",
        ),
        ({"guidance": "maps"}, "model.guidance='maps': .*did you mean 'map'"),
        ({"num_classes": 0}, "model.num_classes=0: at least 1"),
        ({"snippets": 0}, "model.snippets=0: at least 1"),
        ({"snippet_length": -1}, "model.snippet_length=-1: at least 1"),
        ({"sketch_dims": (8, 8)}, r"model.sketch_dims=\(8, 8\): three"),
        ({"sketch_dims": (8, 0, 8)}, r"model.sketch_dims=\(8, 0, 8\): .*at least 1"),
        ({"dropout": 1.0}, "model.dropout=1.0: .*less than 1"),
        ({"flow_weight": -1.0}, "model.flow_weight=-1.0: at least 0"),
        ({"head_std": float("nan")}, "model.head_std=nan: at least 0"),
    ],
)
def test_impossible_configurations_name_the_key(fields, message):
    with pytest.raises(ValueError, match=message):
        config_of(**fields)


def test_unknown_models_name_the_nearest():
    with pytest.raises(ValueError, match=r"model='spatia': .*did you mean 'spatial'"):
        named_model("spatia")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rgb": np.zeros((2, SIDE, SIDE, 4))}, r"rgb of shape \(2, 16, 16, 4\): .*\[B, H, W, 3\]"),
        ({"rgb": np.zeros((1, SIDE, SIDE, 3))}, r"flow of shape .*same B"),
        ({"flow": np.zeros((2, 3, SIDE, SIDE, 6))}, r"flow of shape .* takes \[B, 3, H, W, 4\]"),
        ({"flow": np.zeros((2, SIDE, SIDE, 4))}, r"flow of shape \(2, 16, 16, 4\)"),
        ({"flow": np.zeros((2, 3, 32, 32, 4))}, r"flow of shape .*same B, H and W"),
        # L frames, where L + 1 are needed for L differences.
        ({"frames": np.zeros((2, 3, 2, SIDE, SIDE, 3))}, r"frames of .*\[B, 3, 3, H, W, 3\]"),
    ],
)
def test_inputs_of_another_shape_are_refused(changed, message):
    missing = next(iter(changed))
    motion = "rgb_difference" if missing == "frames" else "flow"
    forward, _, inputs = built("D", motion=motion)
    with pytest.raises(ValueError, match=message):
        forward(inputs | changed)
    with pytest.raises(ValueError, match=rf"{missing} of shape \(\)"):
        forward({key: value for key, value in inputs.items() if key != missing})
