"""Public files are fetched once, whole and checked, or not at all; nothing leaves this machine."""

import hashlib
import http.server
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from stpyramid_jax.models.backbones import BACKBONES
from stpyramid_jax.models.pretrained.public import PUBLIC, PublicFile, cache_folder, fetch
from tests.conftest import ROOT

CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """`/whole-...` gives the content; `/torn-...` ends half way; `/stuck-...` stops there."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if self.path.startswith("/whole"):
            self.wfile.write(CONTENT)
        else:
            self.wfile.write(CONTENT[: len(CONTENT) // 2])
            self.wfile.flush()
            if self.path.startswith("/stuck"):
                self.server.released.wait(60)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.released = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "stpyramid_jax"


def file_of(server, name="whole-12345678.pth", digest=DIGEST[:8]):
    return PublicFile("resnet18", f"http://127.0.0.1:{server.server_port}/{name}", digest)


def test_a_file_is_fetched_once(server, cache):
    file = file_of(server)
    path = fetch(file)
    assert path == cache / "whole-12345678.pth"
    assert path.read_bytes() == CONTENT
    assert fetch(file) == path
    assert len(server.asked) == 1
    assert list(cache.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "digest", "words"),
    [
        ("whole.pth", "0" * 8, rf"SHA-256 begins {DIGEST[:8]} and should begin 0{{8}}; not kept"),
        (
            "torn.pth",
            DIGEST[:8],
            r"ended after 524,288 of 1,048,576 bytes.*put it at .*/torn\.pth$",
        ),
        ("missing.pth", DIGEST[:8], r"HTTP Error 404.*put it at .*/missing\.pth$"),
    ],
)
def test_what_did_not_arrive_right_is_not_kept(server, cache, name, digest, words):
    with pytest.raises(ValueError, match=words) as error:
        fetch(file_of(server, name, digest))
    assert str(error.value).startswith(f"weights http://127.0.0.1:{server.server_port}/{name}: ")
    assert "\n" not in str(error.value)
    assert list(cache.iterdir()) == []


def test_without_a_network_the_url_and_the_place_are_named(cache):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    file = PublicFile("resnet18", f"http://127.0.0.1:{port}/whole-12345678.pth", DIGEST[:8])
    with pytest.raises(ValueError, match="not fetched") as error:
        fetch(file)
    assert file.url in str(error.value)
    assert str(cache / "whole-12345678.pth") in str(error.value)
    cache.joinpath("whole-12345678.pth").write_bytes(CONTENT)
    assert fetch(file).read_bytes() == CONTENT


def test_a_file_that_was_put_there_is_checked_too(server, cache):
    cache.mkdir()
    path = cache / "whole-12345678.pth"
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=rf"{path}: its SHA-256 begins .*delete it"):
        fetch(file_of(server))
    assert server.asked == []


def test_a_cache_folder_that_cannot_be_made_is_told(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="not fetched"):
        fetch(file_of(server))


def test_a_process_that_is_killed_leaves_no_file_of_that_name(server, cache):
    file = file_of(server, "stuck-12345678.pth")
    program = (
        "from stpyramid_jax.models.pretrained.public import PublicFile, fetch\n"
        f"fetch(PublicFile(*{tuple(file)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    try:
        while not list(cache.glob("*.part")):
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert not (cache / "stuck-12345678.pth").exists()
    server.released.set()
    with pytest.raises(ValueError, match="ended after"):
        fetch(file)


def test_the_cache_is_where_caches_are(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(cache_folder()) == "/home/somebody/.cache/stpyramid_jax"


@pytest.mark.parametrize("name", PUBLIC)
def test_the_table(name):
    """Checksums are those in the files' names; each source's prefix is that of its names."""
    file = PUBLIC[name]
    source, _, rest = name.partition("/")
    assert file.backbone in BACKBONES
    assert re.fullmatch(r"[0-9a-f]{8,9}", file.sha256)
    assert file.url.endswith(f"-{file.sha256}.pth")
    assert rest.removesuffix("-v2").replace("squeezenet1_1", "squeezenet") == file.backbone
    hosts = {
        "torchvision": "https://download.pytorch.org/models/",
        "timm": "https://github.com/huggingface/pytorch-image-models/releases/download/",
        "cadene": "http://data.lip6.fr/cadene/pretrainedmodels/",
    }
    assert file.url.startswith(hosts[source])


def test_the_table_agrees_with_torchvision(torchvision_models):
    ours = {file.url for name, file in PUBLIC.items() if name.startswith("torchvision/")}
    theirs = {
        weights.url
        for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg16",
                     "vgg16_bn", "squeezenet1_1")
        for weights in torchvision_models.get_model_weights(name)
    }  # fmt: skip
    assert ours <= theirs
    assert {url for url in theirs - ours if "amdegroot" not in url} == set()


def test_the_table_agrees_with_timm(torchvision_models):  # timm imports torchvision
    timm = pytest.importorskip("timm")
    for name, file in PUBLIC.items():
        if name.startswith("timm/"):
            url = timm.get_pretrained_cfg(f"{file.backbone}.a1_in1k").url
            assert url.rpartition("/")[2] == file.url.rpartition("/")[2]
