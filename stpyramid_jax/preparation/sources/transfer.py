"""A file of a known checksum from a server, by the download manager of TensorFlow Datasets (TFDS).

Nothing of TFDS is imported before a file is fetched.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
import warnings
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path

from stpyramid_jax.progress import progress_bar, say


@dataclass(frozen=True)
class Archive:
    """A zip on a server, and what its content must be."""

    url: str
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def fetch(archive: Archive, folder: Path) -> Path:
    """Gives `<folder>/<name>` if it is there, else downloads it to `<folder>/downloads`, once.

    Raises:
      RuntimeError: the download failed, or the file is not what it should be.
    """
    import tensorflow_datasets as tfds
    from requests.exceptions import ChunkedEncodingError
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.units import Size

    tfds.disable_progress_bar()
    by_hand = folder / archive.name
    try:
        manager = tfds.download.DownloadManager(
            download_dir=_cache(folder).resolve(),
            manual_dir=folder.resolve(),
            url_infos={archive.url: UrlInfo(Size(archive.bytes), archive.sha256, archive.name)},
            force_checksums_validation=True,
            verify_ssl=False,
        )
        # Not the certificate but the SHA-256 tells that it is the right file: crcv.ucf.edu has
        # long sent an incomplete chain of certificates (issue 2800 of tensorflow/datasets).
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Unverified HTTPS")
            return Path(manager.download(archive.url))
    except NonMatchingChecksumError:
        found = by_hand if by_hand.is_file() else "what arrived"
        reason = f"{found} has another size or SHA-256 than TFDS has registered"
    except ChunkedEncodingError:
        reason = "the connection broke"
    except tfds.download.DownloadError as error:
        reason = str(error).rpartition(". ")[2].rstrip(".")  # HTTP code: 404
    except OSError as error:  # of the disk, else of requests
        reason = f"{folder}: {error.strerror}" if error.strerror else str(error)
    finally:
        _remove_parts(folder)
    raise RuntimeError(_line(archive, folder, reason))


def fetch_apart(archive: Archive, folder: Path, patience: float = 60) -> Path:
    """`fetch` with progress, in a process of its own that can be ended.

    TFDS waits forever for a server that falls silent, and does not heed Ctrl-C.

    Args:
      archive: as for `fetch`.
      folder: as for `fetch`.
      patience: seconds without a byte after which the download has failed.

    Raises:
      RuntimeError: as `fetch`.
    """
    say(f"{archive.url} to {folder}")
    _remove_parts(folder)  # of a run that was killed
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_fetched, args=(archive, folder, sender), daemon=True)
    process.start()
    sender.close()  # so that the last one closes when the process ends
    try:
        with progress_bar(archive.bytes // 10**6, "MB") as show:
            arrived, since = None, time.monotonic()
            while not receiver.poll(1):
                before, arrived = arrived, _arrived(folder)
                if arrived is None or arrived != before:
                    since = time.monotonic()
                elif time.monotonic() - since > patience:
                    reason = f"nothing arrived for {patience:.0f} s"
                    raise RuntimeError(_line(archive, folder, reason))
                show((arrived or 0) // 10**6)
            result = receiver.recv()
    except EOFError:
        raise RuntimeError(_line(archive, folder, "the download's process was ended")) from None
    finally:
        process.kill()
        process.join()
        _remove_parts(folder)
    if isinstance(result, Exception):
        raise result
    return result


def _cache(folder: Path) -> Path:
    return folder / "downloads"


def _parts(folder: Path) -> list[Path]:
    return list(_cache(folder).glob("*.tmp.*"))  # TFDS's folders, one for each running download


def _remove_parts(folder: Path) -> None:
    for part in _parts(folder):
        shutil.rmtree(part, ignore_errors=True)


def _arrived(folder: Path) -> int | None:
    """Bytes so far; None before the server was asked."""
    with contextlib.suppress(FileNotFoundError):  # it is whole just now
        if parts := _parts(folder):
            return sum(file.stat().st_size for part in parts for file in part.iterdir())
    return None


def _line(archive: Archive, folder: Path, reason: str) -> str:
    return (
        f"{archive.url}: {reason}; start again, or put {archive.name} into {folder} by other means"
    )


def _send_fetched(archive: Archive, folder: Path, sender: connection.Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # leaves Ctrl-C to the parent
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        sender.send(fetch(archive, folder))
    except RuntimeError as error:
        sender.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        connection.wait([parent.sentinel])
        os._exit(1)
