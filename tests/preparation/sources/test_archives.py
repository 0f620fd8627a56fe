"""Extraction, by a stand-in for unrar whose archives are tar files."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from stpyramid_jax.preparation.sources.archives import unpacked

ROOT = Path(__file__).parents[3]

PROGRAM = f"""#!{sys.executable} -SE
import os, sys, tarfile, time
from pathlib import Path

with open(Path(__file__).with_name("log"), "a") as log:
    print(*sys.argv[1:], file=log)
if Path(__file__).name == "unrar":
    end = sys.argv.index("--")
    command, *switches, _, archive = sys.argv[1 : end + 2]
    assert "-p-" in switches and (command == "lb" or (command == "x" and "-o-" in switches))
    folder = "".join(sys.argv[end + 2 :])
    assert folder.endswith("/") == (command == "x")
else:
    command, archive, *to = sys.argv[1:]
    assert (command, *to[:1]) in (("-tf",), ("-xkf", "-C"))
    folder = "".join(to[1:])
try:
    members = tarfile.open(archive).getmembers()
except tarfile.TarError:
    sys.exit(f"\\n{{archive}} is not RAR archive\\nrubbish")
if not folder:
    print(*(member.name for member in members), sep="\\n")
    sys.exit()
for member in members:
    place = Path(folder, member.name)
    place.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        place.symlink_to(member.linkname)
    elif not place.exists():
        place.write_bytes(tarfile.open(archive).extractfile(member.name).read())
    while Path(__file__).with_name("stopped").exists():
        time.sleep(0.01)
"""


def install(folder, name, monkeypatch):
    """Makes a stand-in the only program on PATH."""
    path = folder / "bin" / name
    path.parent.mkdir()
    path.write_text(PROGRAM)
    path.chmod(0o700)
    monkeypatch.setenv("PATH", str(path.parent))
    return path


@pytest.fixture
def program(tmp_path, monkeypatch):
    return install(tmp_path, "unrar", monkeypatch)


def packed(*members, links=()):
    """An archive of files, each holding its own path, of (path, archive) and of (path, target)."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in (m if isinstance(m, tuple) else (m, m.encode()) for m in members):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return data.getvalue()


def pack(archive, *members, links=()):
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(packed(*members, links=links))
    return archive


def files(folder):
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def test_a_folder_without_archives_is_used_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    (tmp_path / "A").mkdir()
    (tmp_path / "A" / "x.rar").touch()  # not beside the classes
    assert unpacked(tmp_path) == tmp_path
    assert unpacked(tmp_path / "none") == tmp_path / "none"
    assert files(tmp_path) == ["A/x.rar"]


def test_an_archive_gives_the_folder_of_its_classes(tmp_path, program, capsys):
    archive = pack(tmp_path / "UCF101.rar", "UCF-101/A/a.avi", "UCF-101/B/b.avi", ".DS_Store")
    folder = tmp_path / "UCF101"
    assert unpacked(archive) == folder
    assert files(folder) == ["A/a.avi", "B/b.avi"]
    assert capsys.readouterr().out == f"{archive}: extracting to {folder}\n"
    commands = (program.parent / "log").read_text()
    assert unpacked(archive) == folder
    assert (program.parent / "log").read_text() == commands  # once
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_archive_of_an_archive_a_class_is_extracted_whole(tmp_path, program):
    archive = pack(
        tmp_path / "hmdb51_org.rar",
        ("wave.rar", packed("wave/x.avi", "wave/y.avi")),
        ("run.RAR", packed("z.avi")),
    )
    assert files(unpacked(archive)) == ["run/z.avi", "wave/x.avi", "wave/y.avi"]


def test_one_class_is_not_taken_for_the_folder_of_classes(tmp_path, program):
    assert files(unpacked(pack(tmp_path / "UCF101.rar", "UCF-101/A/a.avi"))) == ["A/a.avi"]
    assert files(unpacked(pack(tmp_path / "one.rar", "A/a.avi", "A/b.avi"))) == [
        "A/a.avi",
        "A/b.avi",
    ]


def test_a_folder_of_archives_gets_what_is_not_there_yet(tmp_path, program):
    folder = tmp_path / "hmdb51_org"
    for name in ("run", "wave", ".hidden"):
        pack(folder / f"{name}.rar", f"{name}/new.avi")
    (folder / "run").mkdir()
    (folder / "run" / "old.avi").touch()
    assert unpacked(folder) == folder
    assert files(folder) == [".hidden.rar", "run.rar", "run/old.avi", "wave.rar", "wave/new.avi"]


def test_a_folder_extracted_by_hand_is_used(tmp_path, program):
    """As the line for those without a program says, archives and a folder of folders in it."""
    pack(tmp_path / "hmdb51_org" / "wave.rar", "wave/x.avi")
    assert files(unpacked(tmp_path / "hmdb51_org.rar")) == ["wave.rar", "wave/x.avi"]
    (tmp_path / "UCF101" / "UCF-101" / "A").mkdir(parents=True)
    assert unpacked(tmp_path / "UCF101.rar") == tmp_path / "UCF101" / "UCF-101"


@pytest.mark.parametrize("name", ["-x", "@list", "two words; rm -rf *", "'a' \"b\" $(c) `d`", "é"])
def test_names_reach_the_program_as_they_are(tmp_path, program, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    pack(Path(f"{name}.rar"), f"{name}/{name}.avi", f"{name}/-o+", "B/b")
    folder = unpacked(Path(f"{name}.rar"))
    assert folder == Path(name)
    assert files(folder) == sorted([f"{name}/{name}.avi", f"{name}/-o+", "B/b"])


@pytest.mark.parametrize("name", ["../x.avi", "/tmp/x.avi", "A/../../x.avi", "..\\x.avi", "A/.."])
def test_members_that_lead_out_are_refused_before_anything_is_extracted(tmp_path, program, name):
    archive = pack(tmp_path / "videos.rar", "A/a.avi", name)
    with pytest.raises(ValueError, match="leads out of its folder") as caught:
        unpacked(archive)
    assert str(caught.value) == f"{archive}: {name!a} leads out of its folder"
    assert "x -idq" not in (program.parent / "log").read_text()
    assert sorted(os.listdir(tmp_path)) == ["bin", "videos.rar"]


def test_links_are_refused(tmp_path, program):
    archive = pack(tmp_path / "videos.rar", "A/a.avi", links=[("A/é", "/etc")])
    with pytest.raises(
        ValueError, match=r"^.*videos.rar: 'A?\\xe9' is a link, which may lead out$"
    ):
        unpacked(archive)
    assert sorted(os.listdir(tmp_path)) == ["bin", "videos.rar"]


def test_nothing_in_an_archive_overwrites_something_else(tmp_path, program):
    archive = pack(tmp_path / "videos.rar", "A/a.avi", ("A.rar", packed("b.avi")))
    with pytest.raises(OSError, match="not empty"):
        unpacked(archive)
    assert sorted(os.listdir(tmp_path)) == ["bin", "videos.rar"]


def test_what_is_no_archive_is_named_with_what_the_program_says(tmp_path, program):
    archive = tmp_path / "videos.rar"
    archive.write_text("no archive")
    with pytest.raises(ValueError, match="unrar failed") as caught:
        unpacked(archive)
    assert str(caught.value) == (f"{archive}: unrar failed, status 1: {archive} is not RAR archive")
    assert sorted(os.listdir(tmp_path)) == ["bin", "videos.rar"]
    inner = pack(tmp_path / "hmdb51_org.rar", ("wave.rar", packed("wave/x.avi")), "run.rar")
    with pytest.raises(ValueError, match=r"run.rar: unrar failed, status 1"):
        unpacked(inner)
    assert sorted(os.listdir(tmp_path)) == ["bin", "hmdb51_org.rar", "videos.rar"]
    with pytest.raises(ValueError, match=r"none.rar: no such file$"):
        unpacked(tmp_path / "none.rar")


def test_without_a_program_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    archive = pack(tmp_path / "my videos.rar", "A/a.avi")
    with pytest.raises(ValueError, match="needs unrar or bsdtar on PATH") as caught:
        unpacked(archive)
    (line,) = str(caught.value).splitlines()
    folder = tmp_path / "my videos"
    assert line.endswith(f": mkdir '{folder}' && unrar x -- '{archive}' '{folder}'/")
    assert os.listdir(tmp_path) == ["my videos.rar"]


def test_bsdtar_is_used_where_there_is_no_unrar(tmp_path, monkeypatch):
    program = install(tmp_path, "bsdtar", monkeypatch)
    archive = pack(tmp_path / "videos.rar", "A/a.avi", "B/b.avi")
    assert files(unpacked(archive)) == ["A/a.avi", "B/b.avi"]
    listing, extraction = (program.parent / "log").read_text().splitlines()
    assert listing == f"-tf {archive}"
    assert extraction.startswith(f"-xkf {archive} -C {tmp_path}/.videos.part/")


def test_a_kill_leaves_nothing_half_and_the_next_run_begins_again(tmp_path, program):
    archive = pack(tmp_path / "videos.rar", "A/a.avi", "B/b.avi")
    stopped = program.with_name("stopped")
    stopped.touch()  # the program stops after its first file
    module = "stpyramid_jax.preparation.sources.archives"
    program_text = f"import pathlib, sys, {module} as a; a.unpacked(pathlib.Path(sys.argv[1]))"
    run = subprocess.Popen([sys.executable, "-c", program_text, archive], cwd=ROOT)
    while not list((tmp_path / ".videos.part").rglob("a.avi")):
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "videos").exists()
    with pytest.raises(ValueError, match="another run is extracting here"):
        unpacked(archive)  # the killed run's program still writes
    stopped.unlink()
    deadline = time.monotonic() + 60
    while True:  # until that program has ended
        try:
            folder = unpacked(archive)
            break
        except ValueError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert files(folder) == ["A/a.avi", "B/b.avi"]
    assert [(folder / name).read_text() for name in files(folder)] == files(folder)
    assert sorted(os.listdir(tmp_path)) == ["bin", "videos", "videos.rar"]
