"""The forms that are compared compute the same spectrum."""

import jax
import numpy as np
import pytest

from stpyramid_jax.ops.stcb import make_sketches
from tests.conftest import load

load("benchmarks/comparison.py")  # which the program imports by name
forms = load("benchmarks/forms.py")


@pytest.mark.parametrize("d", [16, 32, 128])
@pytest.mark.parametrize("name", forms.FORMS)
def test_every_form_is_the_transform_of_the_sketch(name, d):
    x = np.random.default_rng(0).standard_normal((5, 24)).astype(np.float32)
    (sketch,) = make_sketches(jax.random.key(0), (24,), d)
    bins = np.zeros((5, d))
    for j, (place, sign) in enumerate(zip(sketch.hash, sketch.sign, strict=True)):
        bins[:, place] += sign * x[:, j]
    spectrum = np.fft.rfft(bins)
    expected = np.concatenate([spectrum.real, spectrum.imag], -1)
    np.testing.assert_allclose(forms.FORMS[name](x, sketch), expected, atol=2e-5)
