"""Eight CPU devices, no silent broadcasting of ranks, and the data that tests share."""

import gc
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

# Most of the time of these tests is compiling: let LLVM not try hard, which halves it, with a
# module in one piece, and XLA take its earlier emitters, which takes a third of that. (Since
# jax 0.11 there are no others.) Tracing makes many objects and few cycles.
QUICKLY = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):
    QUICKLY += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", QUICKLY)  # read when the devices are first asked for
gc.set_threshold(100_000, 50, 50)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).parents[1]


# What takes longest begins first, so that no worker is left alone with it.
LONGEST = (
    "test_notebooks.py",
    "test_docs.py",
    "test_ceilings.py",
    "test_ablation.py",
    "test_processes.py",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def real() -> Path:
    """Folder of real clips, laid out as README.md, "Tests", says."""
    folder = os.environ.get("STPYRAMID_REAL")
    if not folder:
        pytest.skip("STPYRAMID_REAL is not set: no real clips")
    return Path(folder)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> dict[str, str]:
    """Environment of programs of which one need not compile what another has."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture(scope="session")
def run(compiled):
    """Runs a Python program of the project on two CPU devices, compiled as a user would."""

    def run(*arguments, expect: int = 0, cwd: Path = ROOT, **environment: str):
        result = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env={
                **os.environ,
                "XLA_FLAGS": "",
                "JAX_NUM_CPU_DEVICES": "2",
                **compiled,
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == expect, result.stdout + result.stderr
        return result

    return run


@pytest.fixture(scope="session")
def sprites(tmp_path_factory) -> Path:
    """A few embedded clips as videos and as shards, both of the commands of the README."""
    from stpyramid_jax.preparation.choices import Choices
    from stpyramid_jax.preparation.run import prepare

    folder = tmp_path_factory.mktemp("data")
    load("data/synthesize.py").synthesize(folder / "sprites", train=2, test=1, seed=0)
    prepare(
        Choices(
            "folder", folder / "sprites", folder / "shards", size=(72, 72), flow="dis", workers=1
        )
    )
    return folder


def load(path: str):
    """A program of the project as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
