"""torchvision's networks, also where its compiled operators do not fit the build of PyTorch.

A CPU build of PyTorch beside the usual build of torchvision is such a pair: importing torchvision
fails at the first operator of detection, which no network needs. It is declared then, and no more.
"""

import importlib.util

import pytest

torch = pytest.importorskip("torch")
if importlib.util.find_spec("torchvision") is None:
    pytest.skip("could not import 'torchvision'", allow_module_level=True)

try:
    from torchvision import models
except RuntimeError as missing:
    if "torchvision::nms" not in str(missing):
        raise
    LIBRARY = torch.library.Library("torchvision", "DEF")  # forgets its operators when it goes
    for operator in ("nms", "qnms"):
        LIBRARY.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    from torchvision import models

__all__ = ["models"]
