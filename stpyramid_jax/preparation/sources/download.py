"""UCF101 through the download manager of TensorFlow Datasets (TFDS), which knows its checksums.

TFDS takes the videos from the THUMOS challenge: one flat zip, `UCF101/v_<Class>_gNN_cNN.avi`. Here
they go where the official lists have them, `UCF-101/<Class>/<video>`.
"""

import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from stpyramid_jax.disk import rename
from stpyramid_jax.preparation.annotations import read_ucf101
from stpyramid_jax.preparation.sources.transfer import Archive, fetch_apart
from stpyramid_jax.preparation.writing.output import locked
from stpyramid_jax.progress import progress_bar

URLS = (
    "https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",
    "https://storage.googleapis.com/thumos14_files/UCF101_videos.zip",
)
LISTS = ("classInd.txt", *(f"{part}list0{n}.txt" for part in ("train", "test") for n in (1, 2, 3)))


def download_ucf101(folder: Path) -> tuple[Path, Path]:
    """Gives the folders of videos and of official lists in `folder`, downloaded if need be.

    The same call again uses what is whole; a zip that was cut off begins anew. One that is put into
    `folder` by other means is checked and used.

    Raises:
      ValueError: TFDS is not installed, the disk is too small, or another process is at it.
      RuntimeError: a zip cannot be downloaded, or is not the registered one, or is damaged.
      OSError: `folder` cannot be written.
    """
    videos, annotations = ucf101_folders(folder)
    with locked(folder):
        if not (annotations.is_dir() and videos.is_dir()):
            archives = registered()
            _check_room(folder, archives)
            if not annotations.is_dir():
                lists = fetch_apart(archives[0], folder)
                unpack(lists, {name: name for name in LISTS}, annotations)
            if not videos.is_dir():
                listed = read_ucf101(annotations, videos, there=lambda path: True).videos
                clips = fetch_apart(archives[1], folder)
                unpack(clips, {Path(video.path).name: video.path for video in listed}, videos)
    return videos, annotations


def ucf101_folders(folder: Path) -> tuple[Path, Path]:
    """The folders of videos and of official lists below `folder`."""
    return folder / "UCF-101", folder / "ucfTrainTestlist"


def registered() -> list[Archive]:
    """The zips of lists and of videos, with the sizes and checksums that TFDS has for them.

    Raises:
      ValueError: TFDS is not installed, or has none for them.
    """
    try:
        from tensorflow_datasets.core.download.checksums import get_all_url_infos
    except ImportError as error:
        raise ValueError(
            f"--download: needs TensorFlow Datasets, pip install tensorflow-datasets ({error})"
        ) from None
    known = get_all_url_infos()
    if unknown := [url for url in URLS if url not in known]:
        raise ValueError(f"{unknown[0]}: this tensorflow-datasets knows no checksum of it")
    return [Archive(url, int(known[url].size), known[url].checksum) for url in URLS]


def unpack(archive: Path, places: Mapping[str, str], folder: Path) -> None:
    """Writes files of a zip to `folder`, which is there whole or not at all.

    Args:
      archive: the zip.
      places: the path in `folder` of each file name, whatever its folder and its case in the zip
        (that of THUMOS writes HandStandPushups otherwise). Other files are left out.
      folder: to be made.

    Raises:
      RuntimeError: the zip is damaged or holds none of the files.
      OSError: `folder` cannot be written.
    """
    paths = {name.lower(): path for name, path in places.items()}
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as files, progress_bar(len(places), "files") as show:
            for member in files.infolist():
                path = paths.pop(Path(member.filename).name.lower(), None)
                if path is not None:
                    (part / path).parent.mkdir(parents=True, exist_ok=True)
                    with files.open(member) as source, (part / path).open("wb") as target:
                        shutil.copyfileobj(source, target)
                    show(len(places) - len(paths))
        if not part.is_dir():
            raise RuntimeError(f"{archive}: holds none of {len(places)} files, as {min(places)}")
        os.sync()  # all files at once
        rename(part, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise RuntimeError(f"{archive}: damaged ({error}); remove it and start again") from None
    except OSError as error:  # which names no file when a disk is full
        raise OSError(error.errno, error.strerror, str(folder)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_room(folder: Path, archives: Sequence[Archive]) -> None:
    here = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    # Packed and unpacked: videos do not get smaller in a zip.
    needed, free = 2 * sum(a.bytes for a in archives) - here, shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{folder}: UCF101, packed and unpacked, needs {needed / 1e9:.1f} GB, but "
            f"{free / 1e9:.1f} GB are free"
        )
