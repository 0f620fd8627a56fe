"""Public files of weights by name, and fetching them once."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from stpyramid_jax.models.pretrained.formats import written_whole

_TIMEOUT = 30  # seconds without an answer
_CHUNK = 1 << 20  # bytes


class PublicFile(NamedTuple):
    """A file on the web.

    Attributes:
      backbone: a name of `BACKBONES`.
      url: ends with the file's name.
      sha256: the first hexadecimal digits of its SHA-256, as many as are published.
    """

    backbone: str
    url: str
    sha256: str


_TORCHVISION = "https://download.pytorch.org/models"
_TIMM = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-rsb-weights"
_CADENE = "http://data.lip6.fr/cadene/pretrainedmodels"

# Publishers put the checksum's digits behind the name's last dash. URLs as in the sources of
# torchvision, timm and Cadene's pretrained-models.pytorch.
PUBLIC = {
    name: PublicFile(backbone, url, url.rpartition("-")[2].removesuffix(".pth"))
    for name, backbone, url in (
        ("torchvision/resnet18", "resnet18", f"{_TORCHVISION}/resnet18-f37072fd.pth"),
        ("torchvision/resnet34", "resnet34", f"{_TORCHVISION}/resnet34-b627a593.pth"),
        ("torchvision/resnet50", "resnet50", f"{_TORCHVISION}/resnet50-0676ba61.pth"),
        ("torchvision/resnet50-v2", "resnet50", f"{_TORCHVISION}/resnet50-11ad3fa6.pth"),
        ("torchvision/resnet101", "resnet101", f"{_TORCHVISION}/resnet101-63fe2227.pth"),
        ("torchvision/resnet101-v2", "resnet101", f"{_TORCHVISION}/resnet101-cd907fc2.pth"),
        ("torchvision/resnet152", "resnet152", f"{_TORCHVISION}/resnet152-394f9c45.pth"),
        ("torchvision/resnet152-v2", "resnet152", f"{_TORCHVISION}/resnet152-f82ba261.pth"),
        ("torchvision/vgg16", "vgg16", f"{_TORCHVISION}/vgg16-397923af.pth"),
        ("torchvision/vgg16_bn", "vgg16_bn", f"{_TORCHVISION}/vgg16_bn-6c64b313.pth"),
        ("torchvision/squeezenet1_1", "squeezenet", f"{_TORCHVISION}/squeezenet1_1-b8a52dc0.pth"),
        ("timm/resnet18", "resnet18", f"{_TIMM}/resnet18_a1_0-d63eafa0.pth"),
        ("timm/resnet34", "resnet34", f"{_TIMM}/resnet34_a1_0-46f8f793.pth"),
        ("timm/resnet50", "resnet50", f"{_TIMM}/resnet50_a1_0-14fe96d1.pth"),
        ("timm/resnet101", "resnet101", f"{_TIMM}/resnet101_a1_0-cdcb52a9.pth"),
        ("timm/resnet152", "resnet152", f"{_TIMM}/resnet152_a1_0-2eee8a7a.pth"),
        ("cadene/bn_inception", "bn_inception", f"{_CADENE}/bn_inception-52deb4733.pth"),
    )
}


def cache_folder() -> Path:
    """Where fetched files are kept: `$XDG_CACHE_HOME/stpyramid_jax`, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stpyramid_jax"


def fetch(file: PublicFile) -> Path:
    """The file in the cache folder, fetched if it is not there.

    It is written beside its place and put there when it is whole and its checksum is right.

    Raises:
      ValueError: it cannot be fetched or is not what it should be.
    """
    path = cache_folder() / file.url.rpartition("/")[2]
    if path.is_file():
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        _check(digest, file, path, "delete it to have it fetched again")
        return path
    try:
        with written_whole(path) as part:
            _check(_download(file.url, part), file, file.url, "not kept, try again")
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(
            f"weights {file.url}: not fetched ({error}); get it by other means and put it at {path}"
        ) from error
    return path


def _check(digest: str, file: PublicFile, where: object, remedy: str) -> None:
    if not digest.startswith(file.sha256):
        raise ValueError(
            f"weights {where}: its SHA-256 begins {digest[: len(file.sha256)]} and should begin "
            f"{file.sha256}; {remedy}"
        )


def _download(url: str, path: Path) -> str:
    """Writes what a URL gives and returns its SHA-256."""
    digest, size = hashlib.sha256(), 0
    try:
        answer = urllib.request.urlopen(url, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise
    with answer, path.open("wb") as out:
        while chunk := answer.read(_CHUNK):
            out.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        expected = answer.headers.get("Content-Length")
    if expected is not None and size != int(expected):
        raise OSError(f"the connection ended after {size:,} of {int(expected):,} bytes")
    return digest.hexdigest()
