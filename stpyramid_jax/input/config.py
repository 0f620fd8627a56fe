"""What one input of the network is made of."""

import dataclasses

CROPS = (1, 3, 5, 10)
"""Numbers of boxes of a frame that a test can look at."""

CROPS_TEXT = "1 (centre), 3 (and both ends), 5 (and corners) or 10 (and mirrors)"


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """What one input is made of. Sources: slides for snippets and `tau`; TSN for the views.

    The first four belong to the model and come from its configuration.

    Attributes:
      streams: "spatial", "temporal" or "both"; what is not used is not read.
      motion: what the temporal stream sees: fields of the family "flow" or "warped", or
        "rgb_difference", for which a batch holds frames and the model subtracts.
      snippets: T, number of snippets.
      snippet_length: L, fields or differences per snippet.
      tau: interval of snippets in training, drawn from this range, ends included.
      test_tau: interval in testing (the authors' is not known): of the two in the middle of the
        range the one with more divisors, so that windows share snippets (`test_samples`).
      crop: side of the square the network sees, pixels.
      scales: of training boxes, fractions of the frame's short side.
      test_scale: of testing boxes, but for three crops.
      flip: whether training mirrors half of the samples.
      threads: that read and decode, per process; 0: one for each core.
    """

    streams: str = "both"
    motion: str = "flow"
    snippets: int = 3
    snippet_length: int = 10
    tau: tuple[int, int] = (1, 10)
    test_tau: int = 6
    crop: int = 224
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    test_scale: float = 0.875
    flip: bool = True
    threads: int = 0

    def __post_init__(self):
        for name, least in (("test_tau", 1), ("crop", 1), ("threads", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"input.{name}={getattr(self, name)}: at least {least}")
        if not 1 <= self.tau[0] <= self.tau[1]:
            raise ValueError(f"input.tau={self.tau}: (smallest, largest), both at least 1")
        if not self.scales or not all(0 < s <= 1 for s in (*self.scales, self.test_scale)):
            raise ValueError(
                f"input.scales={self.scales}, input.test_scale={self.test_scale}: in (0, 1]"
            )

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the images in a batch: `rgb`, and `flow` or `frames` for the motion."""
        motion = "frames" if self.motion == "rgb_difference" else "flow"
        return {"spatial": ("rgb",), "temporal": (motion,), "both": ("rgb", motion)}[self.streams]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the images of one sample, by the names of `inputs`."""
        snippets, length, crop = self.snippets, self.snippet_length, self.crop
        shapes = {
            "rgb": (crop, crop, 3),
            "flow": (snippets, crop, crop, 2 * length),
            "frames": (snippets, length + 1, crop, crop, 3),
        }
        return {name: shapes[name] for name in self.inputs}

    @property
    def families(self) -> tuple[str, ...]:
        """Families of records that are read, each once."""
        family = {"rgb": "rgb", "frames": "rgb", "flow": self.motion}
        return tuple(dict.fromkeys(family[name] for name in self.inputs))
