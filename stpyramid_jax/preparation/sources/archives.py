"""Videos that come as RAR archives: UCF101 as one, HMDB51 as one that holds one for each class."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from stpyramid_jax.disk import rename
from stpyramid_jax.preparation.annotations.listing import refuse
from stpyramid_jax.preparation.writing.output import locked


def unpacked(videos: Path) -> Path:
    """The folder of videos: `videos` itself or, of an archive, what it holds, extracted once.

    `NAME.rar` is extracted to the folder `NAME` beside it, unless that is there: then it is left
    as it is. So is every archive that lies directly in the folder `videos`, and every archive that
    an archive holds. An archive that holds one folder only, of folders (`UCF-101` in `UCF101.rar`)
    or of its own name (`clap` in `clap.rar`), gives what is in that folder.

    What is being extracted is called `.NAME.part` until it is whole: a run that is killed leaves
    nothing else, and the next one begins that archive again.

    Raises:
      ValueError: neither unrar nor bsdtar is there, the archive is damaged or of another format,
        holds paths or links that lead out of its folder, or is being extracted by another run.
    """
    if videos.is_dir():
        for archive in _archives(videos.iterdir()):
            _unpack(archive)
        return videos
    if videos.suffix.lower() == ".rar":
        return unpacked(_content(_unpack(videos), videos.stem))
    return videos


def _unpack(archive: Path) -> Path:
    folder = archive.with_suffix("")
    if folder.is_dir():
        return folder
    if not archive.is_file():
        raise ValueError(f"{archive}: no such file")
    program = _program(archive)
    part = folder.with_name(f".{folder.name}.part")
    # Programs that are started hold it too: none goes on extracting where a run begins again.
    with locked(part, "another run is extracting") as lock:
        if not folder.is_dir():
            print(f"{archive}: extracting to {folder}", flush=True)
            whole = part.absolute() / folder.name
            try:
                for stale in part.iterdir():  # of a run that was killed
                    shutil.rmtree(stale)
                _extract(archive.absolute(), whole, program, lock)
                os.sync()  # or a power cut could leave half files in what is called whole
                rename(whole, folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return folder


def _extract(archive: Path, folder: Path, program: str, lock: int) -> None:
    """Extracts to a new `folder` what an archive and the archives in it hold."""
    part = folder.with_name(f".{folder.name}.part")
    listing, extraction = _commands(program, str(archive), str(part))
    names = _run(listing, archive, lock).splitlines()
    refuse(f"{archive}: {name!a} leads out of its folder" for name in names if _leaves(name))
    part.mkdir()
    _run(extraction, archive, lock)
    inside = list(part.rglob("*"))
    links = [path for path in inside if path.is_symlink()]
    refuse(f"{archive}: {link.name!a} is a link, which may lead out" for link in links)
    for inner in _archives(inside):
        _extract(inner, inner.with_suffix(""), program, lock)
        inner.unlink()
    rename(_content(part, archive.stem), folder)
    shutil.rmtree(part, ignore_errors=True)


def _commands(program: str, archive: str, folder: str) -> tuple[list[str], list[str]]:
    """Lists what an archive holds, a line each; extracts it, overwriting nothing, asking nothing.

    The paths are absolute, so that none is taken for an option.
    """
    if program == "unrar":
        return (
            ["unrar", "lb", "-p-", "--", archive],
            ["unrar", "x", "-idq", "-o-", "-p-", "--", archive, f"{folder}/"],
        )
    return ["bsdtar", "-tf", archive], ["bsdtar", "-xkf", archive, "-C", folder]


def _content(folder: Path, name: str) -> Path:
    """The folder itself, or the only one in it where that holds folders or has the `name`."""
    match [path for path in folder.iterdir() if not path.name.startswith(".")]:
        case [only] if only.is_dir() and (
            only.name == name or any(path.is_dir() for path in only.iterdir())
        ):
            return only
    return folder


def _archives(paths: Iterable[Path]) -> list[Path]:
    return sorted(
        path
        for path in paths
        if path.suffix.lower() == ".rar" and path.is_file() and not path.name.startswith(".")
    )


def _leaves(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts


def _program(archive: Path) -> str:
    for name in ("unrar", "bsdtar"):
        if shutil.which(name):
            return name
    quoted, folder = shlex.quote(str(archive)), shlex.quote(str(archive.with_suffix("")))
    raise ValueError(
        f"{archive}: extracting it needs unrar or bsdtar on PATH; install one (Debian: apt install "
        "unrar or libarchive-tools; macOS has bsdtar), or extract it by hand where there is one: "
        f"mkdir {folder} && unrar x -- {quoted} {folder}/"
    )


def _run(command: list[str], archive: Path, lock: int) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        # Names that are not ASCII need a locale, which containers lack.
        env={"LANG": "C.UTF-8", **os.environ},
        pass_fds=(lock,),
    )
    if done.returncode:
        said = os.fsdecode(done.stderr.strip() or done.stdout.strip()).partition("\n")[0]
        hint = "; unrar reads archives that bsdtar does not" if command[0] == "bsdtar" else ""
        refuse([f"{archive}: {command[0]} failed, status {done.returncode}: {said}{hint}"])
    return os.fsdecode(done.stdout)
