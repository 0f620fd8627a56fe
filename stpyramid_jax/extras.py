"""Packages that come with the extras of this one (`[train]`, `[prepare]`, ...; pyproject.toml)."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def extra(names: str) -> Iterator[None]:
    """Within, the import of a package that is not installed says which extras bring it.

    Args:
      names: of the extras, such as "train" or "train,prepare".

    Raises:
      ModuleNotFoundError: one line: the package, and the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        own = not error.name or error.name.startswith("stpyramid_jax")
        if own or "stpyramid-jax[" in str(error):
            raise
        raise ModuleNotFoundError(
            f"{error.name} is not installed: pip install 'stpyramid-jax[{names}]'", name=error.name
        ) from None


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
    """Within, a package that was not imported yet counts as not installed.

    For the import of another one that would import it, where it is, for what is not needed here.
    """
    modules: dict[str, Any] = sys.modules
    if name in modules:
        yield
        return
    modules[name] = None
    try:
        yield
    finally:
        del modules[name]
