"""How the house is built: who may import whom, how long a file may be, what is public."""

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import stpyramid_jax

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "stpyramid_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Rooms of the package and those that each may import, beside itself.
ALLOWED = {
    "ops": set(),
    "extras": set(),
    "disk": set(),
    "models": {"ops", "extras"},
    "records": set(),
    "progress": set(),
    "performance": set(),
    "colour": set(),
    "input": {"records"},
    "preparation": {"ops", "records", "progress", "colour", "disk"},
    # Sections of an experiment are the configurations of their rooms.
    "experiment": {
        "input",
        "models",
        "training.optimizer",
        "training.sharding",
        "progress",
        "disk",
    },
    "training": {
        "ops",
        "models",
        "extras",
        "input",
        "experiment",
        "progress",
        "performance",
        "disk",
    },
    "evaluation": {
        "ops",
        "models",
        "input",
        "training",
        "preparation",
        "experiment",
        "progress",
        "performance",
        "colour",
        "disk",
    },
    "export": {
        "input",
        "models",
        "preparation",
        "experiment",
        "extras",
        "training",
        "progress",
        "disk",
    },
    "ablation": {"models", "input", "training", "evaluation", "experiment", "progress", "disk"},
    # What needs extras is imported when it is asked for: tests/library.
    "__init__": {
        "ops",
        "models",
        "extras",
        "experiment",
        "input",
        "preparation",
        "training",
        "evaluation",
    },
}

OWN = {"stpyramid_jax"}

# Files of weights that others wrote are read and written with their own libraries, there only.
FORMATS = {
    "models/pretrained/formats.py": {"google", "safetensors", "torch"},
    "models/pretrained/export.py": {"safetensors"},
}


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports_of(path):
    """Absolute names of all modules that a file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_keep_to_the_rule(path):
    room = room_of(path)
    imported = imports_of(path)
    for name in imported:
        assert name.split(".")[0] not in ("main", "configs", "data", "benchmarks", "tests"), name
        own, _, inside = name.partition(".")
        if own == "stpyramid_jax" and inside:
            allowed = {room} | ALLOWED[room]
            assert any(f"{inside}.".startswith(f"{other}.") for other in allowed), (
                f"{room} imports {name}"
            )
    if room in ("ops", "models"):
        roots = {name.split(".")[0] for name in imported}
        also = {"flax"} if room == "models" else set()
        also |= FORMATS.get(str(path.relative_to(PACKAGE)), set())
        assert roots <= {*sys.stdlib_module_names, "jax", "jaxtyping", "numpy", *OWN, *also}


def test_the_rule_knows_every_room():
    assert {room_of(path) for path in MODULES} == set(ALLOWED)


@pytest.mark.parametrize("module", ["", ".training.step", ".training.optimizer"])
def test_importing_what_is_numeric_is_cheap(module):
    """What reads data, decodes video and writes logs takes seconds to import."""
    program = f"import json, sys, stpyramid_jax{module}; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in json.loads(result.stdout)}
    heavy = {"grain", "orbax", "tensorboardX", "cv2", "av", "matplotlib", "tensorflow"}
    assert "jax" in loaded
    assert not loaded & heavy


def test_files_can_be_read_in_one_sitting():
    folders = [ROOT / name for name in ("stpyramid_jax", "configs", "data", "benchmarks")]
    paths = [path for folder in folders for path in folder.rglob("*.py")]
    lengths = {path: len(path.read_text().splitlines()) for path in [*paths, ROOT / "main.py"]}
    assert {str(path): lines for path, lines in lengths.items() if lines > 400} == {}


@pytest.mark.parametrize("name", stpyramid_jax.__all__)
def test_public_names_exist_and_say_what_they_do(name):
    thing = getattr(stpyramid_jax, name)
    assert len((inspect.getdoc(thing) or "").split()) >= 5
    assert thing.__module__.startswith("stpyramid_jax.")


def test_public_contract():
    contract = {"make_sketches", "count_sketch", "stcb", "signed_sqrt_l2", "tvl1", "create_model"}
    assert contract <= set(stpyramid_jax.__all__)
    assert stpyramid_jax.__all__ == sorted(stpyramid_jax.__all__)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_their_classes_say_what_they_are(path):
    tree = ast.parse(path.read_text())
    if tree.body:
        assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"class {node.name}, line {node.lineno}"
