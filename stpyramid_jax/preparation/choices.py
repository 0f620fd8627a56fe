"""What a preparation is asked for: the flags of `data/prepare.py`, checked against each other."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from stpyramid_jax.preparation.annotations.listing import refuse
from stpyramid_jax.preparation.sources.flow import METHODS

WORDS = {
    "dataset": ("ucf101", "hmdb51", "csv", "folder"),
    "flow": (*METHODS, "none"),
    "on_error": ("skip", "fail"),
    "missing": ("fail", "skip"),
}
"""Words that the fields of these names take."""


@dataclass(frozen=True)
class Choices:
    """What to prepare, from what, and how.

    Attributes:
      dataset: "ucf101", "hmdb51" or "csv" (which need `annotations`), or "folder".
      videos: folder of videos, or a rar archive of them; None where `images` are given.
      out: folder to write, empty or begun with the same choices.
      images: folders of frames and flow as images, instead of `videos` (`images.Images`).
      annotations: folder of the official lists; the table of "csv"; the split of "folder".
      classes: prepare these only.
      test_ratio: share of each class's groups that is the test part of a "folder" without a split.
      workers: processes; by default a core each, or one where an accelerator computes the flow.
      scheduler: address of a Dask scheduler, whose workers do the work instead.
      flow: "tvl1", "opencv", "dis" or "none".
      warped: whether flow without the motion of the camera is written too.
      size: (width, height) that frames are resized to before the flow is computed.
      on_error: a video that cannot be prepared is left out ("skip") or ends the run ("fail").
      missing: whether videos that are listed but not on disk are refused ("fail") or left out.

    Raises:
      ValueError: a line for each choice that is impossible, whatever is in the folders.
    """

    dataset: str
    videos: Path | None
    out: Path
    images: Sequence[Path] = ()
    annotations: Path | None = None
    classes: Sequence[str] = ()
    test_ratio: float | None = None
    workers: int | None = None
    scheduler: str | None = None
    flow: str = "tvl1"
    warped: bool = False
    size: tuple[int, int] = (340, 256)
    on_error: str = "skip"
    missing: str = "fail"

    def __post_init__(self):
        refuse(
            f"--{flag}={getattr(self, flag)}: choose one of {', '.join(words)}"
            for flag, words in WORDS.items()
            if getattr(self, flag) not in words
        )
        refuse([*self._impossible(), *self._useless(), *self._inside()])

    @property
    def method(self) -> str:
        """How the flow comes about: a method of `flow_fields`, "images" or "none"."""
        return "images" if self.images and self.flow != "none" else self.flow

    @property
    def families(self) -> tuple[str, ...]:
        """Families of records that are written."""
        return ("rgb", *["flow"] * (self.flow != "none"), *["warped"] * self.warped)

    @property
    def processes(self) -> int:
        """Workers on this machine."""
        if self.workers is not None:
            return self.workers
        if self.method == "tvl1" and jax.default_backend() != "cpu":
            return 1
        if hasattr(os, "sched_getaffinity"):  # fewer than the machine's under a job scheduler
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1

    def _impossible(self) -> list[str]:
        faults = []
        if not all(16 <= side <= 8192 for side in self.size):
            faults.append("--size={}x{}: needs 16 to 8192 pixels each way".format(*self.size))
        if self.workers is not None and self.workers < 1:
            faults.append(f"--workers={self.workers}: needs at least 1")
        if self.out.exists() and not self.out.is_dir():
            faults.append(f"--out={self.out}: not a folder")
        if (self.videos is None) == (not self.images):
            faults.append("give one of --videos and --images")
        if self.dataset != "folder" and self.annotations is None:
            lists = "the table" if self.dataset == "csv" else "the official lists' folder"
            faults.append(f"--dataset={self.dataset}: needs --annotations, {lists}")
        if self.dataset == "folder" and self.images:
            faults.append("--dataset=folder: needs --videos; list --images by --dataset=csv")
        return faults

    def _useless(self) -> list[str]:
        faults = []
        if self.workers and self.scheduler:
            faults.append(f"--workers={self.workers}: those of --scheduler work; leave one away")
        if self.test_ratio is not None and self.dataset != "folder":
            faults.append(f"--test_ratio: {self.dataset} has its own split; leave it away")
        if self.missing == "skip" and self.dataset == "folder":
            faults.append("--missing=skip: a folder has no list; leave it away")
        if self.images and self.flow not in ("tvl1", "none"):
            faults.append(f"--flow={self.flow}: --images hold flow; leave it away")
        if self.warped and self.method in ("images", "none"):
            faults.append("--warped: of flow that is computed; leave --images, --flow=none away")
        return faults

    def _inside(self) -> list[str]:
        places = [("videos", self.videos), *(("images", folder) for folder in self.images)]
        return [
            f"--out={self.out}: inside --{flag}={place}; choose a folder beside it"
            for flag, place in places
            if place is not None and self.out.resolve().is_relative_to(place.resolve())
        ]
