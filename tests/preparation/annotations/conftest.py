"""Empty files as videos, and what a reader says of bad ones."""

from types import SimpleNamespace

import pytest


def touch(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def faults(call, *args, **kwargs):
    """The lines of the ValueError that a call must raise."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the lines are compared by the caller
        call(*args, **kwargs)
    return str(caught.value).splitlines()


@pytest.fixture(scope="session")
def disk():
    """The functions of this file, for tests."""
    return SimpleNamespace(touch=touch, faults=faults)
