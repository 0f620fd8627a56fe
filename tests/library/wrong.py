"""Calls that are wrong; pyright finds each, on the lines that say so."""

from pathlib import Path

import jax

import stpyramid_jax
from stpyramid_jax import Choices, ModelConfig, make_sketches, stcb, train, tvl1


def wrong(image: jax.Array, workdir: Path) -> None:
    make_sketches(jax.random.key(0), 4, output_dim=8)  # wrong: one number for all inputs
    stcb([image, image], 8)  # wrong: no sketches
    tvl1(image, image, wraps=2)  # wrong: no such argument
    ModelConfig(classes=3)  # wrong: no such field
    Choices("folder", "clips", workdir, size=72)  # wrong: no folder, and one side
    train(workdir)  # wrong: no experiment
    print(stpyramid_jax.trian)  # wrong: no such name
