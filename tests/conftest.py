"""Eight CPU devices, no silent broadcasting of ranks, and the real clips where they are given."""

import os
from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def real() -> Path:
    """Folder of real clips, laid out as README.md, "Tests on real clips", says."""
    folder = os.environ.get("STPYRAMID_REAL")
    if not folder:
        pytest.skip("STPYRAMID_REAL is not set: no real clips")
    return Path(folder)
