"""UCF101 through TFDS's download manager, from a server on loopback that fails in many ways."""

import contextlib
import hashlib
import http.server
import io
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import textwrap
import threading
import zipfile
from pathlib import Path

import pytest

from stpyramid_jax.preparation.annotations import read_ucf101
from stpyramid_jax.preparation.sources import download
from stpyramid_jax.preparation.sources.download import download_ucf101, registered, unpack
from stpyramid_jax.preparation.sources.transfer import Archive, fetch, fetch_apart

VIDEOS = {  # by their paths in the lists; THUMOS writes HandStandPushups otherwise
    "Archery/v_Archery_g01_c01.avi": b"archery 1",
    "Archery/v_Archery_g02_c01.avi": b"archery 2" * 1000,
    "HandstandPushups/v_HandStandPushups_g01_c01.avi": b"pushups 1",
    "HandstandPushups/v_HandStandPushups_g02_c01.avi": b"",
}
THUMOS = {
    "UCF101/": b"",
    "UCF101/.DS_Store": b"not a video",
    **{
        f"UCF101/{Path(path).name.replace('HandStand', 'Handstand')}": data
        for path, data in VIDEOS.items()
    },
}


def zipped(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def lists() -> bytes:
    labels = {"Archery": 1, "HandstandPushups": 2}
    train = "".join(f"{p} {labels[p.split('/')[0]]}\r\n" for p in VIDEOS if "_g01_" in p)
    test = "".join(f"{p}\r\n" for p in VIDEOS if "_g02_" in p)
    index = "".join(f"{label} {name}\r\n" for name, label in labels.items())
    files = {"classInd.txt": index}
    files |= {f"trainlist0{n}.txt": train for n in (1, 2, 3)}
    files |= {f"testlist0{n}.txt": test for n in (1, 2, 3)}
    return zipped({f"ucfTrainTestlist/{name}": text.encode() for name, text in files.items()})


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; `fault` is what it does wrong, `requests` are the files it was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests, self.fault = {}, [], None
        self.halfway, self.left_alone = threading.Event(), threading.Event()
        self.scheme = "http"

    def archive(self, name: str, content: bytes) -> Archive:
        self.files[name] = content
        url = f"{self.scheme}://127.0.0.1:{self.server_port}/{name}"
        return Archive(url, len(content), hashlib.sha256(content).hexdigest())

    def handle_error(self, request, client_address):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        content, fault = self.server.files[self.path[1:]], self.server.fault
        self.server.requests.append(self.path[1:])
        if fault == "absent":
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "other":
            content = content[:-1] + bytes([content[-1] ^ 1])
        if fault in ("cut", "silent"):
            content = content[: len(content) // 2]
        self.wfile.write(content)
        if fault == "silent":
            self.wfile.flush()
            self.server.halfway.set()
            with contextlib.suppress(ConnectionError):
                self.connection.recv(1)  # until the other side closes
            self.server.left_alone.set()

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server():
    """Skips where TFDS is not installed, without which nothing is asked for."""
    pytest.importorskip("tensorflow_datasets")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def ucf101(server, monkeypatch):
    """Has the archives of a small UCF101 registered."""
    archives = [
        server.archive("lists.zip", lists()),
        server.archive("videos.zip", zipped(THUMOS)),
    ]
    monkeypatch.setattr(download, "registered", lambda: archives)
    return archives


@pytest.fixture
def file_limit():
    """No file may grow beyond 1 MB, here and in new processes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*")}


def test_tfds_has_both_archives_registered():
    pytest.importorskip("tensorflow_datasets")
    lists, videos = registered()
    assert lists.name == "UCF101TrainTestSplits-RecognitionTask.zip"
    assert videos.name == "UCF101_videos.zip"
    assert videos.bytes == pytest.approx(6.9e9, rel=0.02)
    assert lists.bytes == pytest.approx(114e3, rel=0.02)
    assert all(int(archive.sha256, 16) for archive in (lists, videos))


def test_tfds_is_asked_for_only_when_needed(run, tmp_path, monkeypatch):
    run(
        "-c",
        "import sys, stpyramid_jax.preparation.sources.download\n"
        "assert not {'tensorflow_datasets', 'requests'} & set(sys.modules)",
    )
    monkeypatch.setitem(sys.modules, "tensorflow_datasets.core.download.checksums", None)
    with pytest.raises(ValueError, match="pip install tensorflow-datasets"):
        download_ucf101(tmp_path)
    for name in ("UCF-101", "ucfTrainTestlist"):
        (tmp_path / name).mkdir()
    assert download_ucf101(tmp_path) == (tmp_path / "UCF-101", tmp_path / "ucfTrainTestlist")


def test_checksums_of_an_older_tfds_may_be_missing(monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(download, "URLS", ("https://example.org/unknown.zip",))
    with pytest.raises(ValueError, match=r"unknown\.zip.*no checksum"):
        registered()


def test_videos_go_where_the_lists_have_them(server, ucf101, tmp_path, capfd):
    folder = tmp_path / "über 'there' [1]\n"
    videos, annotations = download_ucf101(folder)
    assert contents(videos) == VIDEOS
    assert len(read_ucf101(annotations, videos).videos) == len(VIDEOS)
    assert server.requests == ["lists.zip", "videos.zip"]
    assert names(folder) == {"UCF-101", "ucfTrainTestlist", "downloads"}
    assert "Warning" not in capfd.readouterr().err

    for fetched in ucf101:
        assert fetch(fetched, folder).is_file()
    assert download_ucf101(folder) == (videos, annotations)
    assert server.requests == ["lists.zip", "videos.zip"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("other", "what arrived has another size or SHA-256"),
        ("absent", "HTTP code: 404;"),
        ("cut", "the connection broke"),
    ],
)
def test_a_failed_download_leaves_nothing(server, tmp_path, fault, reason):
    archive = server.archive("videos.zip", bytes(300_000))
    server.fault = fault
    with pytest.raises(RuntimeError, match=reason) as error:
        fetch(archive, tmp_path)
    assert_refused(error, archive, tmp_path)
    server.fault = None
    assert fetch(archive, tmp_path).read_bytes() == bytes(300_000)
    assert len(server.requests) == 2


@pytest.mark.parametrize("fault", ["silent", pytest.param("gone", marks=pytest.mark.slow)])
def test_silence_ends_a_download(server, tmp_path, fault):
    archive = server.archive("videos.zip", bytes(300_000))
    server.fault = fault
    if fault == "gone":
        server.socket.close()
    with pytest.raises(RuntimeError, match="nothing arrived for 1 s") as error:
        fetch_apart(archive, tmp_path, patience=1)
    assert_refused(error, archive, tmp_path)


def test_failures_pass_from_process_to_process(server, tmp_path):
    archive = server.archive("videos.zip", b"never sent")
    server.fault = "absent"
    with pytest.raises(RuntimeError, match="HTTP code: 404;") as error:
        fetch_apart(archive, tmp_path)
    assert_refused(error, archive, tmp_path)


def assert_refused(error: pytest.ExceptionInfo, archive: Archive, folder: Path) -> None:
    """One line that begins with the URL, and nothing left but the folder that TFDS makes."""
    assert str(error.value).startswith(f"{archive.url}: ")
    assert "\n" not in str(error.value)
    assert names(folder / "downloads") == {"extracted"}
    assert not names(folder / "downloads" / "extracted")


def test_a_full_disk(server, tmp_path, file_limit):
    archive = server.archive("videos.zip", bytes(3_000_000))
    with pytest.raises(RuntimeError, match=f"{tmp_path}: File too large") as error:
        fetch(archive, tmp_path)
    assert_refused(error, archive, tmp_path)


def test_too_small_a_disk(server, ucf101, tmp_path, monkeypatch):
    huge = Archive(ucf101[1].url, 10**18, ucf101[1].sha256)
    monkeypatch.setattr(download, "registered", lambda: [ucf101[0], huge])
    with pytest.raises(ValueError, match=r"needs 2000000000\.\d GB, but .* are free"):
        download_ucf101(tmp_path)
    assert not server.requests


def test_a_zip_got_by_other_means_is_checked(server, tmp_path):
    archive = server.archive("videos.zip", b"whole")
    file = tmp_path / "videos.zip"
    for wrong in (b"whol", b"other"):
        file.write_bytes(wrong)
        with pytest.raises(RuntimeError, match=rf"{file} has another size or SHA-256"):
            fetch(archive, tmp_path)
    file.write_bytes(b"whole")
    assert fetch(archive, tmp_path) == file
    assert not server.requests


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_end_halfway(server, tmp_path, how):
    archive = server.archive("videos.zip", bytes(300_000))
    server.fault = "silent"
    program = f"""
        import signal
        from pathlib import Path
        from stpyramid_jax.preparation.sources.transfer import Archive, fetch_apart
        if __name__ == "__main__":
            # A shell lets its background jobs, and so their children, ignore Ctrl-C.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            fetch_apart({archive}, Path({str(tmp_path)!r}))
    """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    process = subprocess.Popen(
        [sys.executable, tmp_path / "program.py"], stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.halfway.wait(60)
        process.send_signal(how)
        assert server.left_alone.wait(60)  # the process that downloads has ended too
    finally:
        process.kill()
        process.wait()
    server.fault = None
    assert fetch(archive, tmp_path).read_bytes() == bytes(300_000)
    assert not list((tmp_path / "downloads").glob("*.tmp.*"))


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_the_checksum_stands_for_the_certificate(server, tmp_path, capfd):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-x509", "-nodes", "-subj", "/CN=nobody", "-keyout", key, "-out", certificate]
    subprocess.run(["openssl", "req", "-newkey", "rsa:2048", *subject], check=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.scheme = "https"
    archive = server.archive("lists.zip", lists())
    assert fetch(archive, tmp_path).read_bytes() == lists()
    assert "Warning" not in capfd.readouterr().err


def test_another_process_is_kept_out(ucf101, tmp_path):
    with download.locked(tmp_path), pytest.raises(ValueError, match="another"):
        download_ucf101(tmp_path)


PLACES = {Path(path).name: path for path in VIDEOS}


def test_unpacking_writes_nothing_elsewhere(tmp_path):
    archive, folder = tmp_path / "a.zip", tmp_path / "inner" / "UCF-101"
    hostile = {"../../../v_Archery_g01_c01.avi": b"up", "/v_archery_g02_c01.avi": b"root"}
    archive.write_bytes(zipped({**hostile, "../evil.sh": b"", "x/v_Archery_g01_c01.avi": b"2nd"}))
    stale = folder.parent / ".UCF-101.part" / "stale.avi"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of an earlier run that was killed")
    unpack(archive, PLACES, folder)
    assert contents(tmp_path / "inner") == {
        "UCF-101/Archery/v_Archery_g01_c01.avi": b"up",
        "UCF-101/Archery/v_Archery_g02_c01.avi": b"root",
    }
    assert names(tmp_path) == {"a.zip", "inner"}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data.replace(b"archery 2", b"archery 3", 1), "Bad CRC-32"),
        (lambda data: data[: len(data) // 2], "not a zip file"),
        (lambda data: b"", "not a zip file"),
        (lambda data: zipped({"README": b"moved"}), "holds none of 4 files"),
    ],
)
def test_a_damaged_zip_leaves_nothing(tmp_path, damage, reason):
    archive, folder = tmp_path / "videos.zip", tmp_path / "UCF-101"
    archive.write_bytes(damage(zipped(THUMOS)))
    with pytest.raises(RuntimeError, match=reason) as error:
        unpack(archive, PLACES, folder)
    assert str(error.value).startswith(str(archive))
    assert names(tmp_path) == {"videos.zip"}


def test_a_disk_that_fills_while_unpacking(tmp_path, file_limit):
    archive, folder = tmp_path / "videos.zip", tmp_path / "UCF-101"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as files:
        files.writestr("v_Archery_g01_c01.avi", bytes(3_000_000))
    with pytest.raises(OSError, match="too large") as error:
        unpack(archive, PLACES, folder)
    assert error.value.filename == str(folder)
    assert names(tmp_path) == {"videos.zip"}
