"""The wheel, built from the repository, in an environment of its own, far from the checkout."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.conftest import QUICKLY, ROOT
from tests.library.blocks import blocks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    if not importlib.util.find_spec("build"):
        pytest.skip("build is not installed")
    place = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    # Also what must not be in it; setuptools leaves build/ beside it.
    for name in ("stpyramid_jax", "tests/library", "configs"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place, place],
        check=True,
        capture_output=True,
    )
    return next(place.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel) -> Path:
    """An environment with this wheel and, of all else, what this environment has."""
    folder = wheel.parent / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps"]
    subprocess.run([*pip, wheel], check=True, capture_output=True)
    (packages,) = folder.glob("lib/*/site-packages")
    # Its own .pth files, an editable install among them, are not followed from here.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return python


def test_it_holds_the_package_and_no_more(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"stpyramid_jax/py.typed", "stpyramid_jax/evaluation/report/page.html"} <= names
    modules = {f"{path.relative_to(ROOT)}" for path in (ROOT / "stpyramid_jax").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert {name.split("/")[0].split("-")[0] for name in names} == {"stpyramid_jax"}


def test_the_blocks_of_the_document_run_from_it(python, sprites, tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "clips").symlink_to(sprites / "shards")
    for part in ("train", "test"):
        for video in (sprites / "sprites" / part).glob("Swing*/*_0000.avi"):
            (tmp_path / "clips" / part / video.parent.name).mkdir(parents=True)
            shutil.copy(video, tmp_path / "clips" / part / video.parent.name)
    core, extras = blocks()
    where = "import stpyramid_jax; print(stpyramid_jax.__file__)"
    (tmp_path / "program.py").write_text("\n".join([where, *core, *extras]))
    environment = {
        **os.environ,
        "XLA_FLAGS": QUICKLY,
        "JAX_NUM_CPU_DEVICES": "2",
    }
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        [python, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.splitlines()[0]).is_relative_to(python.parents[1])
    summary = json.loads((tmp_path / "runs/clips/evaluation/1x1-split1/summary.json").read_text())
    assert summary["num_clips"] == 6
    predictions = json.loads((tmp_path / "runs/clips/predictions/predictions.json").read_text())
    assert len(predictions["videos"]) == 2
    assert (tmp_path / "shards" / "mine" / "dataset.json").exists()
