"""What a checkpoint says in words, beside its arrays: how far it came, how well, on which clips."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stpyramid_jax.input.tfrecord import Video


@dataclasses.dataclass(frozen=True)
class Seen:
    """Clips that parameters were trained on, in this run or one that it started from."""

    dataset: str
    digest: str
    split: str
    clips: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class History:
    """Of a run, up to a checkpoint.

    Attributes:
      samples: trained on so far, over all devices; the input goes on with the next.
      validations: (step, mean class accuracy) of the clips held out, in the order of steps.
      seen: what the parameters have learnt from.
    """

    samples: int = 0
    validations: tuple[tuple[int, float], ...] = ()
    seen: tuple[Seen, ...] = ()

    @property
    def best_step(self) -> int | None:
        """The step with the best validation, the latest among equals."""
        if not self.validations:
            return None
        return max(self.validations, key=lambda entry: (entry[1], entry[0]))[0]

    @property
    def stale(self) -> int:
        """Validations since the best one; a later equal is no better."""
        scores = [score for _, score in self.validations]
        return len(scores) - 1 - scores.index(max(scores)) if scores else 0

    def after(self, samples: int, validation: tuple[int, float] | None = None) -> "History":
        """The history when so many more samples, and perhaps a validation, have passed."""
        more = () if validation is None else (validation,)
        return dataclasses.replace(
            self, samples=self.samples + samples, validations=(*self.validations, *more)
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "History":
        return cls(
            samples=values["samples"],
            validations=tuple((step, score) for step, score in values["validations"]),
            seen=tuple(Seen(**seen | {"clips": tuple(seen["clips"])}) for seen in values["seen"]),
        )


def trained_on(history: History, videos: Sequence[Video], numbers: Iterable[int]) -> list[str]:
    """Names of those videos that a checkpoint has been trained on.

    Names alone are compared: the same clip may have been prepared twice, in other sizes.
    """
    known = {clip for seen in history.seen for clip in seen.clips}
    return [videos[number].name for number in numbers if videos[number].name in known]
