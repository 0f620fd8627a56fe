"""Training by `main.py` in processes of its own, as users start it."""

import os
import subprocess
import sys
import time

import jax
import numpy as np

from stpyramid_jax.experiment import load_experiment
from stpyramid_jax.training.checkpoint import Checkpoints, load_trained
from stpyramid_jax.training.sharding import make_mesh
from tests.conftest import QUICKLY, ROOT


def start(shards, workdir, *more, devices=4, **environment):
    """The quickstart's model B, small enough that compiling it does not take long."""
    arguments = (
        "main.py",
        "--config=configs/quickstart.py:model=B",
        f"--config.data.dir={shards}",
        f"--workdir={workdir}",
        "--config.training.steps=2",
        "--config.training.batch_size=8",
        "--config.training.checkpoint_every=2",
        "--config.optimizer.warmup=0",
        "--config.evaluation.positions=2",
        "--config.data.validation=0.5",
        *more,
    )
    environment = {
        **os.environ,
        "XLA_FLAGS": QUICKLY,
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(shards.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends(processes, expect=0):
    found = []
    try:
        for process in processes:
            out, error = process.communicate(timeout=280)
            assert process.returncode == expect, error
            found.append((out, error))
    finally:
        for process in processes:
            process.kill()
    return found


def trained(workdir, best=True):
    """The network that would be evaluated, or that of the latest checkpoint."""
    trained = load_trained(load_experiment(workdir)[0], workdir, make_mesh())
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return trained if best else trained._replace(step=checkpoints.latest_step)


def wait_for_steps(workdir, count, process):
    deadline = time.monotonic() + 200
    path = workdir / "metrics.jsonl"
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def leaves(tree):
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in paths]


def alike(a, b):
    """Sums in another order, and what a signed square root makes of it where it is steep: single
    numbers may be far off, an array as a whole differs by hundredths of its size."""
    for (name, x), (_, y) in zip(leaves(a), leaves(b), strict=True):
        difference = np.abs(x - y).mean()
        assert difference <= 1e-2 * np.abs(y).mean() + 1e-6, name
