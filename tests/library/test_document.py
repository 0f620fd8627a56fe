"""The blocks of docs/library.md, one after the other."""

import jax
import numpy as np
import pytest

from tests.library.blocks import blocks


@pytest.mark.slow
def test_the_blocks_that_need_no_extra():
    scope = {}
    with jax.numpy_rank_promotion("allow"):  # as in a user's program
        for block in blocks()[0]:
            exec(block, scope)
    assert scope["fused"].shape == (8, 7, 7, 1024)
    np.testing.assert_allclose(scope["weights"].sum((1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(scope["flow"].mean((0, 1)), (1.5, 0), atol=0.02)
    assert scope["maps"].shape == (4, 3, 3, 512)
    assert scope["losses"][-1] < 0.1 < 0.5 < scope["losses"][0]
    assert scope["outputs"].logits.argmax(-1).tolist() == [0, 1, 0, 1]
    assert scope["outputs"].attention.shape == (4, 4, 4)
