"""PyTorch's own networks load what is written, strictly and to the bit, and come back so."""

import re

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from stpyramid_jax.models.backbones import BACKBONES, TSN
from stpyramid_jax.models.pretrained import PUBLIC, init_streams, load_weights, save_weights
from stpyramid_jax.models.pretrained.names import DIALECTS
from stpyramid_jax.models.pretrained.translation import to_file
from tests.conftest import ROOT
from tests.models.pretrained.samples import flat, shapes_of, variables_of


@pytest.fixture(scope="session")
def build(torchvision_models):
    """Makes PyTorch's definition of a backbone, with ImageNet's head."""

    def build(backbone):
        if backbone == "bn_inception":
            from tests.models import torch_bn_inception

            return torch_bn_inception.BNInception()
        return getattr(torchvision_models, backbone.replace("squeezenet", "squeezenet1_1"))()

    return build


@pytest.mark.parametrize(
    "backbone", ["bn_inception", "vgg16", "vgg16_bn", "resnet34", "resnet152", "squeezenet"]
)
def test_names_shapes_and_types_are_those_of_pytorch(build, backbone):
    """In full size; the arrays are zeros that take no memory."""
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        expected = {
            name: tuple(value.shape) for name, value in build(backbone).state_dict().items()
        }
    arrays = {
        path: np.broadcast_to(np.float32(0), leaf.shape)
        for path, leaf in flat(dict(shapes_of(backbone, 1000))).items()
        if path != "fc6/kernel"  # 400 MB once it is permuted; test_translation has a small one
    }
    theirs = to_file(arrays, next(d for d in DIALECTS if d.backbone == backbone))
    shapes = {name: array.shape for name, array in theirs.items()}
    if backbone.startswith("vgg"):
        assert expected.pop("classifier.0.weight") == (4096, 512 * 7 * 7)
    assert shapes == expected


@pytest.mark.parametrize("backbone", ["resnet18", "squeezenet", "bn_inception"])
def test_from_pytorch_and_back(build, backbone, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network, other = build(backbone), build(backbone)
    state = network.state_dict()
    for name, value in state.items():  # statistics that are not those of a fresh network
        if name.endswith(("running_mean", "running_var", "bias")):
            value.uniform_(0.5, 2)
    torch.save(state, tmp_path / "network.pth")
    weights = load_weights(tmp_path / "network.pth", backbone)
    shapes = dict(shapes_of(backbone, 1000))
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    paths = ["/".join(key.key for key in path[1:]) for path, _ in leaves]
    assert set(paths) == set(weights.arrays)
    variables = jax.tree.unflatten(tree, [weights.arrays[path] for path in paths])

    images = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    ours = jax.jit(BACKBONES[backbone].module(num_classes=1000).apply)(variables, images)
    colours = slice(None, None, -1) if backbone == "bn_inception" else slice(None)
    with torch.no_grad():
        theirs = network.eval()(torch.from_numpy(images[..., colours].transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))

    save_weights(tmp_path / "back.safetensors", variables, backbone)
    written = {n: torch.from_numpy(a) for n, a in load_file(tmp_path / "back.safetensors").items()}
    other.load_state_dict(written, strict=True)
    for name, value in other.state_dict().items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize(("backbone", "channels"), [("squeezenet", 3), ("bn_inception", 20)])
def test_from_here_and_back(backbone, channels, tmp_path):
    """A stream without its head, with units of its own."""
    variables = variables_of(backbone, channels=channels)
    units = {"mean": np.float32([0.1, 0.2, 0.3]), "scale": np.float32([1 / 3, 1, 2])}
    path = tmp_path / "new" / "stream.safetensors"
    save_weights(path, variables | {"units": units}, backbone)
    weights = load_weights(path, backbone)
    expected = flat(variables)
    assert weights.arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(weights.arrays[name], array)
    for name in ("mean", "scale"):
        np.testing.assert_array_equal(np.float32(getattr(weights.units, name)), units[name])
    with safe_open(path, framework="np") as file:
        assert file.metadata()["backbone"] == backbone
    assert [entry.name for entry in path.parent.iterdir()] == ["stream.safetensors"]

    stream = {name: {"temporal": tree} for name, tree in variables.items()}
    _, report = init_streams(stream, {"temporal": weights})
    assert report == [f"temporal: {len(expected)} arrays loaded from {path}"]


def test_units_are_those_of_the_names_where_none_are_written(tmp_path):
    save_weights(tmp_path / "a.safetensors", variables_of("bn_inception"), "bn_inception")
    assert load_weights(tmp_path / "a.safetensors", "bn_inception").units == TSN


def test_a_file_that_is_there_is_replaced_whole_or_not_at_all(tmp_path):
    path, variables = tmp_path / "a.safetensors", variables_of("squeezenet")
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match=r"^export .*a\.safetensors: not the arrays of resnet18"):
        save_weights(path, variables, "resnet18")
    assert path.read_bytes() == b"before"
    save_weights(path, variables, "squeezenet")
    assert load_weights(path, "squeezenet").arrays.keys() == flat(variables).keys()
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_told(tmp_path):
    variables = variables_of("squeezenet")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^export .*/file/a\.safetensors: not written"):
        save_weights(tmp_path / "file" / "a.safetensors", variables, "squeezenet")
    with pytest.raises(ValueError, match=r"convnet is no network of torchvision or Cadene"):
        save_weights(tmp_path / "a.safetensors", variables, "convnet")


def test_the_example_of_the_document_runs(torchvision_models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/weights.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, {})


def test_the_document_lists_the_public_files():
    text = (ROOT / "docs/weights.md").read_text()
    rows = re.findall(r"^\| `(\S+/\S+)` \| (\w+) \| (\S+) \| (\w+) \|$", text, re.MULTILINE)
    assert rows == [(name, *file) for name, file in PUBLIC.items()]
