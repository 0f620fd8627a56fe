"""What every backbone keeps to: names, sizes, counts, dtypes, statistics, memory, its documents."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stpyramid_jax.models import backbones, pyramid
from stpyramid_jax.models.backbones import BACKBONES, CAFFE, IMAGENET, TSN, Backbone
from stpyramid_jax.models.backbones.layers import max_pool
from tests.conftest import ROOT

RNG = np.random.default_rng(0)
PAGE = (ROOT / "docs" / "backbones.md").read_text()

# One of each kind; ResNets differ in their table and in the kind of block.
KINDS = ("bn_inception", "vgg16", "vgg16_bn", "resnet18", "resnet50", "squeezenet", "convnet")
WITH_NORMS = ("bn_inception", "vgg16_bn", "resnet50", "convnet")
WITH_HEADS = tuple(name for name in BACKBONES if name != "convnet")


@functools.cache
def shapes_of(name, size=(224, 224), channels=3, **fields):
    """(shape of the output, shapes of the variables), computing nothing."""
    image = jax.ShapeDtypeStruct((2, *size, channels), jnp.float32)
    module = BACKBONES[name].module(**fields)
    output, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
    return output.shape, variables


def paths_of(tree):
    return ["/".join(key.key for key in path) for path, _ in jax.tree.leaves_with_path(tree)]


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@functools.cache
def built(name, channels=3):
    """(module, variables) that keep features at the size of the input, none of them at its start.

    The running averages are those of no batch.
    """
    _, shapes = shapes_of(name, channels=channels)

    def fill(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return RNG.standard_normal(leaf.shape, np.float32) * np.sqrt(
                2 / np.prod(leaf.shape[:-1])
            )
        return RNG.uniform(0.5, 1.5, leaf.shape) - (name in ("bias", "mean"))

    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    return BACKBONES[name].module, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)


def image_of(size, channels=3, batch=2):
    return jnp.asarray(RNG.normal(size=(batch, *size, channels)), jnp.float32)


# Names and counts


@pytest.mark.parametrize("name", BACKBONES)
def test_names_follow_the_rules(name):
    """Cross-modality initialisation and partial batch normalisation go by these names."""
    _, variables = shapes_of(name)
    params = paths_of(variables["params"])
    first = [path for path in params if re.fullmatch(r"conv1(_1)?/kernel", path)]
    assert len(first) == 1
    norms = {path.removesuffix("/scale") for path in params if path.endswith("/scale")}
    assert all(norm.split("/")[-1].startswith("norm") for norm in norms)
    statistics = set(paths_of(variables.get("batch_stats", {})))
    assert statistics == {f"{norm}/{leaf}" for norm in norms for leaf in ("mean", "var")}
    rest = {path for path in params if path.rsplit("/", 1)[0] not in norms}
    assert all(path.endswith(("/kernel", "/bias")) for path in rest)
    assert not any("norm" in path for path in rest)
    firsts = [norm for norm in norms if re.match(r"norm1(_1)?$", norm)]
    assert len(firsts) == bool(norms)
    assert name in WITH_NORMS or "resnet" in name or not norms


@pytest.mark.parametrize("name", KINDS)
def test_flow_in_bfloat16_changes_the_first_kernel_only(name):
    """Parameters and statistics stay float32; one kernel sees the channels of the image."""
    (_, rgb), (_, flow) = shapes_of(name), shapes_of(name, channels=20, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(flow)} == {jnp.dtype("float32")}
    leaves = zip(paths_of(rgb), jax.tree.leaves(rgb), jax.tree.leaves(flow), strict=True)
    changed = {path: b.shape[2] for path, a, b in leaves if a.shape != b.shape}
    assert len(changed) == 1
    assert re.fullmatch(r"params/conv1(_1)?/kernel", *changed)
    assert list(changed.values()) == [20]


def test_bn_inception_has_69_norms():
    _, variables = shapes_of("bn_inception")
    assert len(paths_of(variables["batch_stats"])) == 2 * 69


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("bn_inception", 11_295_240),
        ("vgg16", 138_357_544),
        ("vgg16_bn", 138_365_992),
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("squeezenet", 1_235_496),
    ],
)
def test_parameters_with_the_head_of_imagenet_are_as_many_as_published(name, published):
    scores, variables = shapes_of(name, num_classes=1000)
    assert scores == (2, 1000)
    assert count(variables["params"]) == published


# Sizes


@pytest.mark.parametrize("name", KINDS)
def test_the_smallest_side_is_that_of_the_page(name):
    smallest = int(rows_of_page()[name][4])
    assert shapes_of(name, (smallest, smallest))[0][1:3] == (1, 1)
    if smallest > 1:
        assert shapes_of(name, (smallest - 1, 64))[0][1] == 0


@pytest.mark.parametrize("name", KINDS)
def test_height_and_width_are_apart_and_any(name):
    wide, tall = shapes_of(name, (45, 76))[0], shapes_of(name, (76, 45))[0]
    assert (wide[1], wide[2]) == (tall[2], tall[1])
    assert wide[1] < wide[2]


def test_bn_inception_sees_every_position_of_an_odd_map():
    """Where 3c halves an odd map, its pool has the positions of the convolutions, none invented."""
    x = image_of((9, 9), channels=320, batch=1)
    block = backbones.bn_inception.Inception(
        None, (128, 160), (64, 96), None, max_pool=False, running=True, dtype=None
    )
    pooled = jax.jit(block.init_with_output)(jax.random.key(0), x)[0][0, :, :, -320:]
    expected = [
        [x[0, i : i + 3, j : j + 3].max((0, 1)) for j in range(0, 9, 2)] for i in range(0, 9, 2)
    ]
    np.testing.assert_array_equal(pooled, np.array(expected))


# Training


@pytest.mark.parametrize("name", WITH_NORMS)
def test_partial_bn_moves_the_first_statistics_only(name):
    make, variables = built(name)
    image = image_of((32, 32), batch=4)

    def updates(partial_bn):
        module = make(partial_bn=partial_bn)
        step = jax.jit(lambda x: module.apply(variables, x, True, mutable=["batch_stats"])[1])
        before, after = variables["batch_stats"], step(image)["batch_stats"]
        moved = jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), before, after))
        return {path for path, changed in zip(paths_of(before), moved, strict=True) if changed}

    everything = set(paths_of(variables["batch_stats"]))
    first = {path for path in everything if re.match(r"norm1(_1)?/", path)}
    assert updates(True) == first
    if name == "convnet":  # the others against PyTorch, in test_parity.py
        assert updates(False) == everything


@pytest.mark.parametrize("name", ["vgg16", "squeezenet"])
def test_class_scores_drop_out_in_training_only(name):
    make, _ = built(name)
    module = make(num_classes=2)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    jax.eval_shape(module.apply, variables, image)
    with pytest.raises(Exception, match="PRNG"):
        jax.eval_shape(lambda v, x: module.apply(v, x, True), variables, image)


@pytest.mark.parametrize("name", ["squeezenet", "resnet18"])
def test_bfloat16_is_near_float32(name):
    """bfloat16 rounds by up to 2**-9; through this many layers the maps still agree to some 2 %."""
    make, variables = built(name)
    image = image_of((48, 48))
    forward = [jax.jit(make(dtype=dtype).apply)(variables, image) for dtype in (None, jnp.bfloat16)]
    full, half = (np.asarray(x, np.float32) for x in forward)
    assert forward[1].dtype == jnp.bfloat16
    difference = np.sqrt(np.square(full - half).mean() / np.square(full).mean())
    assert 1e-4 < difference < 0.03


def test_statistics_in_bfloat16_are_those_in_float32():
    """A mean far from zero: bfloat16 sums would lose the variance of what lies around it."""
    layer = backbones.layers.norm(False, jnp.bfloat16, "norm1")
    x = jnp.asarray(RNG.normal(8, 1, (4, 64, 64, 1)), jnp.bfloat16)
    _, variables = layer.init_with_output(jax.random.key(0), x)
    output, updates = layer.apply(variables, x, mutable=["batch_stats"])
    expected = np.asarray(x, np.float64)
    assert output.dtype == jnp.bfloat16
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * expected.var(), rtol=1e-4)


# Recomputing


def kept(name, remat):
    """Bytes that a training step keeps from the forward for the backward pass."""
    module = BACKBONES[name].module(remat=remat)
    image = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    _, variables = shapes_of(name)

    def backward(params, rest, image):
        def forward(params):
            return module.apply({"params": params, **rest}, image, True, mutable=["batch_stats"])

        return jax.vjp(forward, params, has_aux=True)[1]

    rest = {name: tree for name, tree in variables.items() if name != "params"}
    residuals = jax.tree.leaves(jax.eval_shape(backward, variables["params"], rest, image))
    return sum(x.size * x.dtype.itemsize for x in residuals) - 4 * count(variables["params"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bn_inception", "vgg16_bn", "resnet50", "squeezenet", "convnet"])
def test_remat_keeps_less_under_the_same_names(name):
    assert jax.tree.structure(shapes_of(name, remat=True)) == jax.tree.structure(shapes_of(name))
    assert kept(name, remat=True) < 0.7 * kept(name, remat=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "convnet"])
def test_remat_changes_no_gradient(name):
    make, variables = built(name)
    image, rest = image_of((33, 33)), {key: variables[key] for key in variables if key != "params"}

    def gradients(remat):
        def loss(params):
            variables = {"params": params, **rest}
            x, updates = make(remat=remat).apply(variables, image, True, mutable=["batch_stats"])
            return jnp.square(x).mean(), updates

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    def agree(ours, expected):
        np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)

    jax.tree.map(agree, gradients(remat=True), gradients(remat=False))


# Units and documents


def test_units_are_those_of_the_weights():
    """torchvision divides bytes by 255 first; Caffe and TSN subtract BGR means from bytes."""
    rgb = np.array([255.0, 0.0, 100.0])
    expected = (rgb / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose((rgb - IMAGENET.mean) * IMAGENET.scale, expected)
    assert CAFFE.mean[::-1] == (103.939, 116.779, 123.68)
    assert TSN.mean[::-1] == (104, 117, 123)
    assert CAFFE.scale == TSN.scale == (1, 1, 1)


def rows_of_page():
    rows = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| `")]
    return {row[0].strip(" `"): [cell.strip(" `") for cell in row[1:]] for row in rows}


def test_the_page_lists_every_backbone():
    assert list(rows_of_page()) == list(BACKBONES)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_page_is_right(name):
    layer, size, trunk, with_head, _, units, _ = rows_of_page()[name]
    shape, variables = shapes_of(name)
    assert f"{shape[1]} x {shape[2]} x {shape[3]}" == size
    assert f"{count(variables['params']):,}" == trunk
    if name in WITH_HEADS:
        assert f"{count(shapes_of(name, num_classes=1000)[1]['params']):,}" == with_head
    if units in ("IMAGENET", "TSN"):
        assert BACKBONES[name].units == getattr(backbones, units)
    assert layer in variables["params"] or {layer} == {
        path.split("/")[0] for path in paths_of(variables["params"]) if path.startswith(layer)
    }


def added_backbone():
    """The backbone that the page adds: its code and its line of the table, as they stand there."""
    module, line = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {"Backbone": Backbone, "IMAGENET": IMAGENET}
    exec(module, names)
    return eval(f"{{{line}}}", names)["alexnet"]


def test_the_added_backbone_is_like_the_others():
    """That its maps are those of torchvision is seen in test_parity.py."""
    added = added_backbone()
    assert added.units == IMAGENET
    image = jax.ShapeDtypeStruct((2, 224, 224, 20), jnp.float32)
    for fields in ({}, {"remat": True}, {"partial_bn": True, "dtype": jnp.bfloat16}):
        module = added.module(**fields)
        output, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
        assert output.shape == (2, 13, 13, 256)
        assert output.dtype == fields.get("dtype", jnp.float32)
        layers = {f"conv{n}/{leaf}" for n in range(1, 6) for leaf in ("kernel", "bias")}
        assert set(paths_of(variables["params"])) == layers


def test_a_pyramid_takes_the_added_backbone(monkeypatch):
    monkeypatch.setitem(BACKBONES, "alexnet", added_backbone())
    monkeypatch.setitem(pyramid._CHOICES, "backbone", tuple(BACKBONES))
    model = pyramid.create_model(pyramid.ModelConfig(num_classes=5, backbone="alexnet"))
    inputs = {"rgb": np.zeros((2, 96, 96, 3), np.uint8), "flow": np.zeros((2, 3, 96, 96, 20))}
    outputs, variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), inputs, train=False)
    )
    assert outputs.logits.shape == (2, 5)
    assert outputs.attention.shape == (2, 5, 5)
    assert variables["params"]["temporal"]["conv1"]["kernel"].shape == (11, 11, 20, 64)


@pytest.mark.parametrize(("size", "low", "high"), [(3, 0, 1), (3, 1, 1), (3, 0, 2), (2, 0, 0)])
@pytest.mark.parametrize("side", [1, 2, 9])
def test_pooling_by_slices_is_pooling_by_windows(side, size, low, high):
    """Values bit for bit, ties and empty maps included; of equal values the first learns."""
    random = np.random.default_rng(0)
    x = random.integers(0, 3, (2, side, side + 1, 3)).astype(np.float32)

    def windows(x):
        return nn.max_pool(x, (size, size), (2, 2), ((low, high), (low, high)))

    def slices(x):
        return max_pool(x, size, low, high)

    np.testing.assert_array_equal(slices(x), windows(x))
    assert slices(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16
    weights = random.normal(size=windows(x).shape).astype(np.float32)

    def gradient(pool):
        return jax.grad(lambda x: (pool(x) * weights).sum())(x)

    np.testing.assert_allclose(gradient(slices), gradient(windows), atol=1e-6)


def test_pooling_keeps_what_is_no_number():
    """A network that has broken must not look whole."""
    for place in range(3):
        x = jnp.zeros((1, 3, 3, 1)).at[0, place, place, 0].set(jnp.nan)
        assert jnp.isnan(max_pool(x, 3, 0, 1)).all()
