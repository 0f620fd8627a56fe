"""PyTorch's networks, where they are installed."""

import pytest


@pytest.fixture(scope="session")
def torchvision_models():
    from tests.models.torchvision_models import models

    return models
