"""Moving sprites: the embedded clips. What the pyramid was made for decides them, and nothing else.

    python data/synthesize.py --out=DIR [--train=N] [--test=N] [--seed=0]

writes N clips per class as DIR/train/<Class>/<name>.avi and DIR/test/<Class>/<name>.avi, and
DIR/labels.csv with every latent variable of every clip. The files depend on the seed alone, clip by
clip: asking for more clips leaves the first ones as they are.

Discs of one shape, red or blue, move over still grey scenes. The classes are three pairs of twins:

- Swing (appearance x motion): one disc swings along an axis. Matched = red horizontal or blue
  vertical, Crossed = red vertical or blue horizontal. Colour alone and axis alone tell nothing.
- Hop (order): one disc hops from its home along three spokes in turn and back, and rests between.
  Any L fields hold one spoke at most; only which spoke follows which tells the twins apart.
- Act (who acts): a red and a blue disc; one swings, the other stays. Only the colour *where the
  motion is* tells the twins apart.

Why nothing else tells twins apart:

- Red and blue have one BT.601 luma, and flow is computed on luma.
- Each hop comes back home. On a walk round a triangle the places of the legs give their order away.
- A clip has L - 1 fields more than a round of hops, so it shows every snippet of the round exactly
  once. Any other length shows some snippets more often, and which ones depends on the order.
- A disc that swings along one axis stays, along the other, at a random point of the same swing, and
  a disc that stays does so along both. So any one frame is distributed alike in twins.
- The codec is lossless. MPEG-4 codes a disc that moves otherwise than one that stays, and the noise
  in its colours alone told who acts in 80 % of the clips.
- Two homes are drawn for one disc too, so homes of one disc and of two are distributed alike.

Mirroring keeps what Swing and Act mean but turns Hop's spokes into others: train without flips.
"""

import argparse
import csv
import dataclasses
import sys
from collections import Counter
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import av
import cv2
import numpy as np

Model = Literal["spatial", "temporal", "A", "B", "C", "D"]
Script = tuple[tuple[str, str], ...]  # (colour, motion) of each sprite

CLASSES: dict[str, tuple[Script, ...]] = {
    "SwingMatched": ((("red", "horizontal"),), (("blue", "vertical"),)),
    "SwingCrossed": ((("red", "vertical"),), (("blue", "horizontal"),)),
    "HopClockwise": ((("red", "clockwise"),), (("blue", "clockwise"),)),
    "HopCounter": ((("red", "counter"),), (("blue", "counter"),)),
    "ActRed": (
        (("red", "horizontal"), ("blue", "still")),
        (("red", "vertical"), ("blue", "still")),
    ),
    "ActBlue": (
        (("blue", "horizontal"), ("red", "still")),
        (("blue", "vertical"), ("red", "still")),
    ),
}
"""The scripts of each class; a clip plays one of them, each equally often."""

TWINS = {
    "Swing": ("SwingMatched", "SwingCrossed"),
    "Hop": ("HopClockwise", "HopCounter"),
    "Act": ("ActRed", "ActBlue"),
}
"""The two classes of each kind."""

LENGTH, SNIPPETS, TAU = 5, 3, 10
"""What the clips are made for: L fields a snippet, T snippets, tau fields from one to the next."""

FPS, SIZE, CENTRE = 25, 72, 56
"""Frames a second; side of a frame; side of the middle square that no disc leaves, in pixels."""

ROUND = 3 * TAU
"""Fields of a round of hops."""

FIELDS = ROUND + LENGTH - 1
"""Fields of a clip, which has one frame more."""

RADIUS = 7.0
SWING = np.array([-5, -3, -1, 1, 3, 5, 3, 1, -1, -3], np.float64)
"""Place on the axis of a swing, frame by frame, in pixels: 2 pixels a field."""

HOP = np.array([0, 2, 4, 6, 4, 2, 0, 0, 0, 0], np.float64)
"""Distance from home during a hop: six moving fields, then L - 1 resting ones, so that L fields
never hold two hops and never hold none."""

SPOKES = np.array([[np.cos(a), np.sin(a)] for a in np.deg2rad([45, 165, 285])])
"""Directions (x, y) of the hops; y points down, so growing angles run clockwise."""

STAR = -(HOP.max() / 2) * (SPOKES.max(0) + SPOKES.min(0))
"""Home of a hopping disc: the middle of its spokes' box then is the middle of a swing's box."""


def _chroma(cr: float, cb: float) -> np.ndarray:
    """RGB of a colour difference of BT.601, whose luma .299 R + .587 G + .114 B is 0."""
    red, blue = 1.402 * cr, 1.772 * cb
    return np.array([red, -(0.299 * red + 0.114 * blue) / 0.587, blue])


CHROMA = {"red": _chroma(64, -24), "blue": _chroma(-24, 64)}
"""RGB added to the grey of a disc."""


@dataclasses.dataclass(frozen=True)
class Sprite:
    """One disc: `home` (x, y) from the middle of the frame in pixels, `phases` (x, y) in fields."""

    colour: str
    motion: str
    home: tuple[float, float]
    phases: tuple[int, int]
    texture: int


@dataclasses.dataclass(frozen=True)
class Program:
    """Every latent variable of one clip; `scene` seeds the background."""

    label: str
    sprites: tuple[Sprite, ...]
    scene: int


def _sample_homes(rng: np.random.Generator) -> np.ndarray:
    """Two exchangeable homes [2, 2]; their discs stay in the middle square and 2 px apart."""
    free = CENTRE / 2 - RADIUS - 0.5 - SWING.max()
    apart = 2 * (RADIUS + SWING.max()) + 2
    while True:
        homes = rng.uniform(-free, free, (2, 2))
        if np.abs(homes[0] - homes[1]).max() >= apart:
            return homes


def sample_program(label: str, rng: np.random.Generator) -> Program:
    """Draws a clip of class `label`. Raises ValueError on an unknown class."""
    if label not in CLASSES:
        raise ValueError(f"class {label!r} is none of {', '.join(CLASSES)}")
    script = CLASSES[label][rng.integers(len(CLASSES[label]))]
    homes = _sample_homes(rng)
    sprites = tuple(
        Sprite(
            colour=colour,
            motion=motion,
            home=(float(home[0]), float(home[1])),
            phases=(int(rng.integers(ROUND)), int(rng.integers(ROUND))),
            texture=int(rng.integers(2**31)),
        )
        for (colour, motion), home in zip(script, homes, strict=False)
    )
    return Program(label, sprites, scene=int(rng.integers(2**31)))


def path(sprite: Sprite) -> np.ndarray:
    """Places of the disc, [FIELDS + 1, 2] (x, y), in pixels from the middle of the frame."""
    time = np.arange(FIELDS + 1)
    if sprite.motion in ("clockwise", "counter"):
        turn = 1 if sprite.motion == "clockwise" else -1
        leg = (sprite.phases[0] + time) // TAU * turn % 3
        offset = STAR + HOP[(sprite.phases[0] + time) % TAU, None] * SPOKES[leg]
    else:
        moving = [sprite.motion == "horizontal", sprite.motion == "vertical"]
        offset = SWING[(sprite.phases + time[:, None] * moving) % TAU]
    return sprite.home + offset


def _noise(
    rng: np.random.Generator, side: int, *, grain: float, mean: float, std: float
) -> np.ndarray:
    """Smooth random texture [side, side] with blobs of about `grain` pixels."""
    noise = cv2.GaussianBlur(rng.standard_normal((side, side)), (0, 0), grain)
    noise = (noise - noise.mean()) / noise.std()
    return mean + std * np.clip(noise, -2, 2)


def _draw(frame: np.ndarray, texture: np.ndarray, colour: str, place: np.ndarray) -> None:
    """Paints one disc into `frame` [SIZE, SIZE, 3] in place; `place` is (x, y) from its middle."""
    side = len(texture)
    corner = place + (SIZE - side) / 2
    whole = np.floor(corner).astype(int)
    shift = corner - whole
    grey = cv2.warpAffine(
        texture,
        np.array([[1, 0, shift[0]], [0, 1, shift[1]]]),
        (side, side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    cover = np.clip(RADIUS + 0.5 - np.hypot(x - shift[0], y - shift[1]), 0, 1)[..., None]
    window = frame[whole[1] : whole[1] + side, whole[0] : whole[0] + side]
    window += cover * (grey[..., None] + CHROMA[colour] - window)


def render(program: Program) -> np.ndarray:
    """The clip's frames, uint8 RGB [FIELDS + 1, SIZE, SIZE, 3]."""
    rng = np.random.default_rng(program.scene)
    scene = _noise(rng, SIZE, grain=5, mean=145, std=12) + _noise(rng, SIZE, grain=2, mean=0, std=6)
    frames = np.repeat(scene[None, ..., None], FIELDS + 1, axis=0).repeat(3, axis=3)
    for sprite in program.sprites:
        texture_rng = np.random.default_rng(sprite.texture)
        side = 2 * int(RADIUS) + 4
        texture = _noise(texture_rng, side, grain=1.2, mean=92, std=22)
        for frame, place in zip(frames, path(sprite), strict=True):
            _draw(frame, texture, sprite.colour, place)
    return np.rint(frames).clip(0, 255).astype(np.uint8)


def write_video(file: Path, frames: np.ndarray) -> None:
    """Encodes RGB frames [N, h, w, 3] without loss (FFV1)."""
    with av.open(str(file), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def observe(program: Program, model: Model) -> Hashable:
    """What the form of `model` lets it see of a clip when it may look at every position of it.

    Frames and snippets come unordered, since scores are averaged over positions; C and D see the T
    snippets of a position in order. A sees what B sees, but only through a sum of two scores, one
    of the colours and one of the motions.
    """
    colours = tuple(sorted(sprite.colour for sprite in program.sprites))
    steps = [np.diff(path(sprite), axis=0).round(3) + 0.0 for sprite in program.sprites]
    actors = tuple(s.colour for s, step in zip(program.sprites, steps, strict=True) if step.any())
    fields = [tuple(field) for field in np.sum(steps, axis=0).tolist()]
    snippets = [tuple(fields[i : i + LENGTH]) for i in range(FIELDS - LENGTH + 1)]
    windows = list(zip(*(snippets[i * TAU :] for i in range(SNIPPETS)), strict=False))
    motions = frozenset(Counter(snippets).items())
    orders = frozenset(Counter(windows).items())
    return {
        "spatial": colours,
        "temporal": motions,
        "A": (colours, motions),
        "B": (colours, motions),
        "C": (colours, orders),
        "D": (colours, orders, actors),
    }[model]


class Ceiling(NamedTuple):
    """Best expected accuracy: `overall`, and `per_class` for a classifier that treats twins alike
    (only the mean over twins is bounded: who always names one twin is always right there)."""

    overall: float
    per_class: dict[str, float]
    reason: str


def ceilings() -> dict[Model, Ceiling]:
    """The best expected accuracy of each model of the ablation, for classes of equal size.

    The tests compute the same numbers from `observe`. A model is taken to see what is there, not
    where in the frame. One that read places perfectly could tell who acts from B on, and `spatial`
    could gain some 4 points since discs spend their time elsewhere in Swing than in Hop.
    """
    table: dict[Model, tuple[float, float, float, str]] = {
        "spatial": (1 / 4, 1 / 4, 1 / 2, "a frame shows one disc (four classes) or two (two)"),
        "temporal": (1 / 4, 1 / 2, 1 / 4, "a snippet shows a swing (four classes) or a hop (two)"),
        "A": (3 / 4, 1 / 2, 1 / 2, "a sum of scores gets three of four colour x axis cells right"),
        "B": (1, 1 / 2, 1 / 2, "a product knows colour x axis; single snippets know no order"),
        "C": (1, 1, 1 / 2, "snippets in order tell the hops; pooled colours do not tell who acts"),
        "D": (1, 1, 1, "the colour where the motion is tells who acts"),
    }
    result: dict[Model, Ceiling] = {}
    for model, (*accuracies, reason) in table.items():
        kinds = zip(TWINS.values(), accuracies, strict=True)
        per_class = {label: accuracy for twins, accuracy in kinds for label in twins}
        result[model] = Ceiling(sum(accuracies) / len(TWINS), per_class, reason)
    return result


def kind_of(label: str) -> str:
    """The key of `TWINS` that a class is of."""
    return next(kind for kind, twins in TWINS.items() if label in twins)


def programs(split: str, count: int, seed: int) -> Iterator[tuple[str, Program]]:
    """Names and programs of a split, `count` per class; each clip has its own random stream."""
    for number, label in enumerate(CLASSES):
        for clip in range(count):
            rng = np.random.default_rng([seed, ("train", "test").index(split), number, clip])
            yield f"{label}_{split}_{clip:04d}", sample_program(label, rng)


def _row(split: str, name: str, program: Program) -> dict[str, object]:
    """One line of labels.csv; the cells of a second sprite are left empty where there is none."""
    row: dict[str, object] = {"split": split, "name": name, "class": program.label}
    row |= {"kind": kind_of(program.label), "scene": program.scene}
    for number, sprite in enumerate(program.sprites, start=1):
        (home_x, home_y), (phase_x, phase_y) = sprite.home, sprite.phases
        row |= {f"colour{number}": sprite.colour, f"motion{number}": sprite.motion}
        row |= {f"home_x{number}": home_x, f"home_y{number}": home_y}
        row |= {f"phase_x{number}": phase_x, f"phase_y{number}": phase_y}
        row[f"texture{number}"] = sprite.texture
    return row


def read_programs(labels: Path) -> dict[str, Program]:
    """The programs of all clips by name, from labels.csv; ValueError if the file is another."""
    found = {}
    with open(labels, newline="") as file:
        rows = csv.DictReader(file)
        if "texture1" not in (rows.fieldnames or ()):
            raise ValueError(f"{labels}: no labels.csv of data/synthesize.py")
        for row in rows:
            sprites = tuple(
                Sprite(
                    row[f"colour{i}"],
                    row[f"motion{i}"],
                    (float(row[f"home_x{i}"]), float(row[f"home_y{i}"])),
                    (int(row[f"phase_x{i}"]), int(row[f"phase_y{i}"])),
                    int(row[f"texture{i}"]),
                )
                for i in (1, 2)
                if row[f"colour{i}"]
            )
            found[row["name"]] = Program(row["class"], sprites, int(row["scene"]))
    return found


def synthesize(out: Path, *, train: int, test: int, seed: int) -> int:
    """Writes the data set; returns its number of clips. ValueError where `out` holds others."""
    for name, value, least in (("train", train, 1), ("test", test, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"--{name} is {value}: give at least {least}")
    plan = [
        (split, name, program, out / split / program.label / f"{name}.avi")
        for split, count in (("train", train), ("test", test))
        for name, program in programs(split, count, seed)
    ]
    foreign = sorted(set(out.glob("*/*/*")) - {file for *_, file in plan})
    if foreign:
        raise ValueError(
            f"{out} holds {len(foreign)} files of other clips ({foreign[0]}): give an empty folder"
        )
    for _, _, program, file in plan:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_video(file, render(program))
    rows = [_row(split, name, program) for split, name, program, _ in plan]
    with open(out / "labels.csv", "w", newline="") as labels:
        writer = csv.DictWriter(labels, max(rows, key=len), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return len(plan)


def main() -> int:
    parser = argparse.ArgumentParser(description="Renders the embedded clips (moving sprites).")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--train", type=int, default=60, help="training clips per class")
    parser.add_argument("--test", type=int, default=20, help="test clips per class")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        clips = synthesize(args.out, train=args.train, test=args.test, seed=args.seed)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{clips} clips of {len(CLASSES)} classes in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
