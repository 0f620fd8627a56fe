"""What the package needs when: nothing but jax and flax, or the extra that it names."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib

import pytest

import stpyramid_jax
from stpyramid_jax.extras import extra, without
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGE = ROOT / "stpyramid_jax"
PROGRAMS = [ROOT / "main.py", *(ROOT / "configs").glob("*.py"), ROOT / "data" / "prepare.py"]

# Imported where they are found only, each with a line of its own where it is not.
OPTIONAL = {"distributed", "requests", "tensorflow", "tensorflow_datasets", "torch"}


# What jax, flax and jaxtyping import is there; of all else only the standard library is.
REFUSING = """
import sys
import flax.linen as nn, jax, jax.numpy as jnp
from jaxtyping import PyTree
jax.eval_shape(nn.Conv(1, (3, 3)).init, jax.random.key(0), jnp.ones((1, 4, 4, 1)))
known = {name.split(".")[0] for name in sys.modules} | set(sys.stdlib_module_names)

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in known | {"stpyramid_jax"}:
            raise ModuleNotFoundError(f"refused: {name}", name=name)

sys.meta_path.insert(0, Refuse())
from stpyramid_jax import *
from stpyramid_jax.models.backbones import BACKBONES

image = jnp.ones((1, 32, 32, 3))
for name in ("bn_inception", "convnet", "resnet18", "squeezenet", "vgg16"):
    jax.eval_shape(BACKBONES[name].module().init, jax.random.key(0), image)
model = create_model(ModelConfig(num_classes=2, backbone="convnet", **named_model("D")))
batch = {"rgb": image, "flow": jnp.ones((1, 3, 32, 32, 20))}
jax.eval_shape(lambda: model.init(jax.random.key(0), batch, train=False))
sketches = make_sketches(jax.random.key(0), (3, 3), 8)
assert stcb([image, image], sketches).shape == (1, 32, 32, 8)
assert attention_pool(image, image[..., 0])[0].shape == (1, 3)
assert tvl1(image[..., 0], image[..., 0], warps=1, iterations=1).shape == (1, 32, 32, 2)
refused = {"grain", "orbax", "optax", "ml_collections", "cv2", "av", "tensorboardX", "matplotlib"}
assert not refused & set(sys.modules) and not refused & known
"""


def test_what_is_numeric_needs_jax_and_flax_alone():
    result = subprocess.run(
        [sys.executable, "-c", REFUSING], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


# The first argument names packages, which are then as if they were not installed.
MISSING = """
import sys
missing = sys.argv.pop(1).split(",")

class Without:
    def find_spec(self, name, path=None, target=None):
        if name in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
"""

NAMES = """
import json
import stpyramid_jax
said = {}
for name in stpyramid_jax._WITH_EXTRAS:
    try:
        getattr(stpyramid_jax, name)
    except ModuleNotFoundError as error:
        said[name] = str(error)
print(json.dumps(said))
"""


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (
            "cv2,grain,ml_collections",  # without any extra
            {
                **dict.fromkeys(("Shards", "evaluate", "train"), "train"),
                **dict.fromkeys(("build_experiment", "default_config"), "train"),
                **dict.fromkeys(("Choices", "prepare"), "prepare"),
                "predict": "train,prepare",
            },
        ),
        ("av", {"prepare": "prepare", "predict": "train,prepare"}),  # with [train]
    ],
)
def test_a_name_without_its_extra_says_which(missing, expected):
    command = [sys.executable, "-c", MISSING + NAMES, missing]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = json.loads(result.stdout)
    assert lines.keys() == expected.keys()
    for name, line in lines.items():
        found = re.fullmatch(r"(\w+) is not installed: pip install 'stpyramid-jax\[(.*)\]'", line)
        assert found, line
        assert found[1] in missing.split(",")
        assert found[2] == expected[name]
        assert set(found[2].split(",")) <= PROJECT["optional-dependencies"].keys()


PROGRAM = """
import runpy
sys.path.insert(0, ".")
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("missing", "command", "extras"),
    [
        ("ml_collections", "main.py --help", "train"),
        ("grain", "main.py --config=configs/quickstart.py --workdir=WORKDIR", "train"),
        ("av", "main.py --mode=predict --workdir=WORKDIR --video=clip.avi", "train,prepare"),
        ("av", "data/prepare.py --dataset=folder --videos=clips --out=WORKDIR", "prepare"),
    ],
)
def test_a_program_without_its_extra_says_which(missing, command, extras, tmp_path):
    workdir = tmp_path / "run"
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            MISSING + PROGRAM,
            missing,
            *command.replace("WORKDIR", str(workdir)).split(),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    line = f"error: {missing} is not installed: pip install 'stpyramid-jax[{extras}]'\n"
    assert (result.stderr, result.returncode) == (line, 1)
    assert not workdir.exists()


def test_an_extra_changes_no_other_error():
    own = re.escape("No module named 'stpyramid_jax.nowhere'")
    with pytest.raises(ModuleNotFoundError, match=own), extra("train"):
        importlib.import_module("stpyramid_jax.nowhere")
    with pytest.raises(ModuleNotFoundError, match="please install gcsfs"), extra("train"):
        raise ModuleNotFoundError("please install gcsfs to access GCS")
    with pytest.raises(ImportError, match="cannot import name"), extra("train"):
        from stpyramid_jax.extras import nothing  # noqa: F401
    inner = re.escape("no_such_package is not installed: pip install 'stpyramid-jax[interop]'")
    with pytest.raises(ModuleNotFoundError, match=inner), extra("train"), extra("interop"):
        importlib.import_module("no_such_package.part")


def test_what_is_left_out_is_there_afterwards(tmp_path, monkeypatch):
    (tmp_path / "left_out.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with without("left_out"), pytest.raises(ModuleNotFoundError, match="left_out"):
        importlib.import_module("left_out")
    importlib.import_module("left_out")
    with without("left_out"):
        importlib.import_module("left_out")  # was imported before: stays


def test_training_imports_no_pytorch(tmp_path):
    """TensorBoard's writer would, where there is one, for seconds."""
    (tmp_path / "torch.py").write_text("raise AssertionError")
    program = [sys.executable, "-c", "import stpyramid_jax.training.loop"]
    subprocess.run(program, env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=True)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'stpyramid_jax' has no attribute 'trian'"):
        stpyramid_jax.trian  # noqa: B018


def test_type_checkers_see_the_names_with_extras():
    """Once for them and once for Python: the same names of the same modules."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (checking,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module.removeprefix("stpyramid_jax.")
        for node in checking.body
        for alias in node.names
        if alias.asname == alias.name  # so that they are re-exported
    }
    assert seen == {name: module for name, (module, _) in stpyramid_jax._WITH_EXTRAS.items()}


def distributions(requirements):
    return {re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in requirements}


def test_every_package_that_is_imported_is_declared_and_no_other():
    declared = distributions(PROJECT["dependencies"])
    for requirements in PROJECT["optional-dependencies"].values():
        declared |= distributions(requirements) - {"stpyramid-jax"}
    imported = set()
    for path in [*PACKAGE.rglob("*.py"), *PROGRAMS]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    imported -= {*sys.stdlib_module_names, "stpyramid_jax", "configs", *OPTIONAL}
    brought = importlib.metadata.packages_distributions()
    found = {root: distributions(brought[root]) for root in imported}
    assert declared <= set.union(*found.values())
    assert {root for root, names in found.items() if not names & declared} == set()
