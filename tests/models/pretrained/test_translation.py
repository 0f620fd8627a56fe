"""Names and layouts of every kind of file, there and back, to the bit."""

import re

import numpy as np
import pytest

from stpyramid_jax.models.backbones import BACKBONES, CAFFE, IMAGENET, TSN
from stpyramid_jax.models.pretrained.names import DIALECTS
from stpyramid_jax.models.pretrained.translation import from_file, recognize, shortened, to_file
from tests.models.pretrained.samples import flat, shapes_of, small_of

EXPORTED = [name for name in BACKBONES if name != "convnet"]


def dialect_of(backbone, source="torchvision"):
    return next(d for d in DIALECTS if (d.backbone, d.source) == (backbone, source))


def export(backbone, arrays=None):
    """Arrays of a backbone in the names that it is exported in."""
    dialect = next(d for d in DIALECTS if d.backbone == backbone)
    return to_file(arrays or small_of(backbone), dialect)


def same(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: f"{d.backbone} {d.source}")
def test_a_dialect_names_every_layer_of_its_backbone_once(dialect):
    layers = {path.rpartition("/")[0] for path in flat(dict(shapes_of(dialect.backbone, 1000)))}
    assert sorted(layer.ours for layer in dialect.layers) == sorted(layers)
    assert len({layer.theirs for layer in dialect.layers}) == len(layers)


@pytest.mark.parametrize("backbone", EXPORTED)
def test_there_and_back(backbone):
    """Random values, so that a transposition or flip too many would show."""
    arrays = small_of(backbone)
    theirs = export(backbone, arrays)
    dialect = recognize(theirs, backbone)
    ours, unexpected = from_file(theirs, dialect)
    same(ours, arrays)
    assert unexpected == []
    same(to_file(ours, dialect), theirs)


def test_layouts():
    """A kernel's value at (h, w, in, out) here is at (out, in, h, w) there."""
    arrays = small_of("resnet50")
    theirs = export("resnet50", arrays)
    ours, other = arrays["layer2_0/conv2/kernel"], theirs["layer2.0.conv2.weight"]
    assert other[1, 2, 0, 1] == ours[0, 1, 2, 1]
    np.testing.assert_array_equal(theirs["fc.weight"], arrays["fc/kernel"].T)
    np.testing.assert_array_equal(
        theirs["layer1.0.downsample.1.running_var"], arrays["layer1_0/norm_downsample/var"]
    )
    count = theirs["bn1.num_batches_tracked"]
    assert (count.dtype, count.shape, int(count)) == (np.int64, (), 0)


def test_the_dense_layer_over_a_map_counts_its_inputs_as_the_map_is_laid_out():
    """On one map, fc6 gives the same here (h, w, c) and there (c, h, w); integers are exact."""
    rng = np.random.default_rng(0)
    kernel, image = (rng.integers(-9, 9, shape) for shape in ((5, 2 * 49), (2, 7, 7)))
    ours, _ = from_file(
        {"classifier.0.weight": kernel.astype(np.float32)}, dialect_of("vgg16", "torchvision")
    )
    here = image.transpose(1, 2, 0).reshape(-1) @ ours["fc6/kernel"]
    np.testing.assert_array_equal(here, kernel @ image.reshape(-1))


@pytest.mark.parametrize("backbone", ["vgg16", "vgg16_bn"])
def test_timm_writes_dense_layers_as_convolutions(backbone):
    arrays = small_of(backbone)
    theirs = export(backbone, arrays)
    for number, name in enumerate(("pre_logits.fc1", "pre_logits.fc2", "head.fc")):
        for part in ("weight", "bias"):
            theirs[f"{name}.{part}"] = theirs.pop(f"classifier.{3 * number}.{part}")
    for name, side in (("fc1", 7), ("fc2", 1)):
        weight = theirs[f"pre_logits.{name}.weight"]
        theirs[f"pre_logits.{name}.weight"] = weight.reshape(len(weight), -1, side, side)
    dialect = recognize(theirs, backbone)
    assert dialect.source == "timm"
    same(from_file(theirs, dialect)[0], arrays)


def test_timms_own_names(torchvision_models):  # timm imports torchvision
    timm = pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    for backbone in ("vgg16", "vgg16_bn", "resnet18", "resnet50"):
        with torch.device("meta"):
            state = timm.create_model(backbone).state_dict()
        shapes = {
            name: np.broadcast_to(np.float32(0), value.shape) for name, value in state.items()
        }
        ours, unexpected = from_file(shapes, recognize(shapes, backbone))
        assert unexpected == []
        expected = flat(dict(shapes_of(backbone, 1000)))
        assert {p: a.shape for p, a in ours.items()} == {p: a.shape for p, a in expected.items()}


def tsn_caffe(arrays):
    """BN-Inception as TSN's Caffe has it: BGR, vectors as [1, C, 1, 1], blobs by number."""
    theirs = {}
    for name, array in export("bn_inception", arrays).items():
        layer, _, field = name.rpartition(".")
        layer = re.sub(r"^(conv\d|inception_\d[a-e])_", r"\1/", layer)
        layer = layer.replace("last_linear", "fc-action")
        index = {"weight": 0, "bias": 1, "running_mean": 2, "running_var": 3}.get(field)
        if index is not None:
            norm = layer.endswith("_bn")
            theirs[f"{layer}:{index}"] = array.reshape(1, -1, 1, 1) if norm else array
    return theirs


def test_tsns_caffe_files():
    arrays = small_of("bn_inception")
    theirs = tsn_caffe(arrays)
    assert {"conv1/7x7_s2:0", "inception_3a/3x3_bn:3", "inception_4e/double_3x3_2:1"} <= set(theirs)
    dialect = recognize(theirs, "bn_inception")
    assert (dialect.source, dialect.units, dialect.bgr) == ("Caffe", TSN, True)
    same(from_file(theirs, dialect)[0], arrays)


def test_old_files_have_vectors_of_two_dimensions():
    arrays = small_of("bn_inception")
    theirs = {
        name: array[None] if "_bn." in name and array.ndim == 1 else array
        for name, array in export("bn_inception", arrays).items()
    }
    same(from_file(theirs, recognize(theirs, "bn_inception"))[0], arrays)


def test_old_caffe_files_have_four_dimensions_everywhere():
    """VGG's layers of 2014: kernels [O, I, h, w], dense ones [1, 1, O, I], biases [1, 1, 1, O]."""
    arrays = small_of("vgg16")
    torch, theirs = export("vgg16", arrays), {}
    layers = {layer.theirs: layer.ours for layer in dialect_of("vgg16").layers}
    for name, array in torch.items():
        layer, _, field = name.rpartition(".")
        shape = (1,) * (4 - array.ndim) + array.shape
        theirs[f"{layers[layer]}:{int(field == 'bias')}"] = array.reshape(shape)
    theirs["conv1_1:0"] = theirs["conv1_1:0"][:, ::-1]
    dialect = recognize(theirs, "vgg16")
    assert (dialect.source, dialect.units) == ("Caffe", CAFFE)
    same(from_file(theirs, dialect)[0], arrays)


@pytest.mark.parametrize(
    ("backbone", "units", "bgr"),
    [("resnet50", IMAGENET, False), ("squeezenet", IMAGENET, False), ("bn_inception", TSN, True)],
)
def test_the_first_kernel_is_rgb_here(backbone, units, bgr):
    arrays = small_of(backbone)
    theirs = export(backbone, arrays)
    first = next(array for name, array in theirs.items() if array.ndim == 4)
    ours = arrays["conv1/kernel"].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(first, ours[:, ::-1] if bgr else ours)
    assert recognize(theirs, backbone).units == units


def test_a_first_kernel_of_flow_has_no_colours_to_turn_around():
    arrays = small_of("bn_inception")
    arrays["conv1/kernel"] = np.random.default_rng(0).normal(size=(7, 7, 20, 3))
    theirs = export("bn_inception", arrays)
    expected = arrays["conv1/kernel"].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(theirs["conv1_7x7_s2.weight"], expected)


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.base_model."])
def test_prefixes_of_wrappers_are_understood(prefix):
    """As TSN's PyTorch writes them, whose own dense layer stands beside the wrapped network."""
    arrays = small_of("bn_inception")
    theirs = {prefix + name: array for name, array in export("bn_inception", arrays).items()}
    if prefix == "module.base_model.":
        for part in ("weight", "bias"):
            theirs[f"module.new_fc.{part}"] = theirs.pop(f"{prefix}last_linear.{part}")
    same(from_file(theirs, recognize(theirs, "bn_inception"))[0], arrays)


@pytest.mark.parametrize("held", EXPORTED)
def test_a_file_of_another_network_is_refused_by_name(held):
    theirs = export(held)
    for backbone in EXPORTED:
        if backbone != held:
            with pytest.raises(ValueError, match=rf"looks like {held} .* is {backbone}$"):
                recognize(theirs, backbone)


def test_a_file_of_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match=r"no network known here.*patch_embed\.proj\.weight"):
        recognize(["patch_embed.proj.weight", "blocks.0.attn.qkv.weight"], "resnet50")


def test_a_damaged_file_is_still_recognised():
    """So that what it lacks can be listed."""
    theirs = sorted(export("resnet34"))
    assert recognize([*theirs[::2], "ema_decay"], "resnet34").backbone == "resnet34"


def test_arrays_without_a_name_are_told():
    theirs = export("resnet18") | {"fc_aux.weight": np.ones((2, 2), np.float32)}
    ours, unexpected = from_file(theirs, dialect_of("resnet18"))
    assert unexpected == ["fc_aux.weight"]
    same(ours, small_of("resnet18"))


def test_a_parameter_that_is_there_twice_is_refused():
    theirs = export("resnet18")
    theirs["module.conv1.weight"] = theirs["conv1.weight"]
    with pytest.raises(ValueError, match=r"module\.conv1\.weight is there twice"):
        from_file(theirs, dialect_of("resnet18"))


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "x" * 1000])
def test_names_of_any_kind_are_told_in_one_line(name):
    assert shortened([name]).isprintable()
    assert len(shortened([name])) <= 80
    assert shortened("edcba") == "a, b, c and 2 more"


def test_only_whole_networks_are_written():
    arrays = small_of("resnet18")
    dialect = dialect_of("resnet18")
    trunk = {path: array for path, array in arrays.items() if not path.startswith("fc/")}
    assert "fc.weight" not in to_file(trunk, dialect)
    without = {path: a for path, a in arrays.items() if not path.startswith("layer1_0/conv1/")}
    with pytest.raises(ValueError, match="none unexpected, layer1_0/conv1 missing"):
        to_file(without, dialect)
    with pytest.raises(ValueError, match="conv9/kernel unexpected, none missing"):
        to_file(arrays | {"conv9/kernel": np.ones(1)}, dialect)
