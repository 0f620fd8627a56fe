"""Samples by a PyTorch `DataLoader` from loose JPEG files, as Temporal Segment Networks keep them.

One file an image: `<clip>/img_00001.jpg`, `flow_x_00001.jpg`, `flow_y_00001.jpg`. There are two
forms: TSN's transforms (multi-scale crop, flip, stack, floats, normalised), which read the files of
each snippet, and a lean one that reads a file once a sample and hands over bytes. Both use OpenCV,
which decodes about a third faster than Pillow, on one thread of a worker for each core.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from stpyramid_jax.input.augment import View

MEAN, SCALE = 128.0, 58.0  # about ImageNet's; one of each costs what one of a channel does


class Sample(NamedTuple):
    """A clip's folder, the numbers of its frame (or none) and of its fields in order (or none)."""

    clip: Path
    frame: int | None
    fields: tuple[int, ...]


class LooseFiles(Dataset):
    """Views of the samples, endlessly; channels lead."""

    def __init__(self, samples: list[Sample], crop: int, lean: bool, draw: Callable[[int], View]):
        """`draw(index)` gives the box of a sample."""
        self.samples, self.crop, self.lean, self.draw = samples, crop, lean, draw

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        cv2.setNumThreads(1)
        sample, view = self.samples[index % len(self.samples)], self.draw(index)
        found = {}
        if sample.frame is not None:
            image = self.image(sample.clip / f"img_{sample.frame + 1:05d}.jpg", view, True)
            rgb = torch.from_numpy(image).permute(2, 0, 1).contiguous()
            found["rgb"] = rgb if self.lean else (rgb.float() - MEAN) / SCALE
        if sample.fields:
            read = functools.cache(self.plane) if self.lean else self.plane
            planes = [read(sample.clip, axis, k, view) for k in sample.fields for axis in "xy"]
            flow = torch.from_numpy(np.stack(planes))
            found["flow"] = flow if self.lean else (flow.float() - MEAN) / SCALE
        return found

    def plane(self, clip: Path, axis: str, field: int, view: View) -> np.ndarray:
        plane = self.image(clip / f"flow_{axis}_{field + 1:05d}.jpg", view, False)
        return 255 - plane if view.flip and axis == "x" else plane

    def image(self, path: Path, view: View, colour: bool) -> np.ndarray:
        """The resized box of an image, mirrored if it is."""
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB if colour else cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise ValueError(f"{path}: no image")
        box = image[view.y : view.y + view.height, view.x : view.x + view.width]
        image = cv2.resize(box, (self.crop, self.crop), interpolation=cv2.INTER_LINEAR)
        return cv2.flip(image, 1) if view.flip else image


def batches(files: LooseFiles, batch_size: int, workers: int) -> Iterator[dict[str, torch.Tensor]]:
    """Endless batches of a loader whose workers stay."""
    loader = DataLoader(
        files,
        batch_size,
        num_workers=workers,
        prefetch_factor=2,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    return iter(loader)
