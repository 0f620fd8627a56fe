"""Files that are there whole or not at all, whatever happens to the machine."""

import os
from pathlib import Path


def write(path: Path, data: bytes | bytearray) -> None:
    """Writes a file under the name `.NAME.part`, then renames it over what is there."""
    part = path.with_name(f".{path.name.removeprefix('.')}.part")
    with part.open("wb") as file:
        file.write(data)
        sync(file)
    rename(part, path)


def rename(part: Path, path: Path) -> None:
    """Gives a file its name, in place of what had it."""
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)  # so that a power cut keeps renames in their order
    os.close(folder)


def sync(file) -> None:
    """Closes a file once all of it is on the disk."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
