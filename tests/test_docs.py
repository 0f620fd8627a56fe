"""Every command and every example of the documents, run as it stands there."""

import doctest
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from stpyramid_jax.evaluation.scores import Scores, save
from stpyramid_jax.models.backbones.squeezenet import SqueezeNet
from stpyramid_jax.ops import stcb
from tests.conftest import QUICKLY, ROOT

SOURCES = (
    "README.md",
    "data/README.md",
    "main.py",
    "data/prepare.py",
    "data/synthesize.py",
    "docs/picture.py",
    "docs/curves.py",
    "docs/export.md",
    *sorted(f"configs/{path.name}" for path in (ROOT / "configs").glob("*.py")),
)
UCF10 = (
    "BodyWeightSquats",
    "HandstandPushups",
    "HandstandWalking",
    "JumpRope",
    "JumpingJack",
    "Lunges",
    "PullUps",
    "PushUps",
    "TrampolineJumping",
    "WallPushups",
)

# What is added to each program's command so that it takes seconds.
SHORTER = {
    "data/synthesize.py": ["--train=2", "--test=1"],
    "data/prepare.py": ["--flow=dis", "--size=72x72", "--workers=1"],
    "main.py": [
        "--config.training.steps=2",
        "--config.training.batch_size=2",
        "--config.input.crop=64",
        "--config.evaluation.positions=1",
        "--config.evaluation.crops=1",
    ],
    "docs/picture.py": [],
    "docs/curves.py": [],
}


# One command trains and evaluates SqueezeNet, one the quickstart; the others need not.
SMALLER = ["--config.model.backbone=convnet", "--config.model.partial_bn=False"]

# Most of the time is compiling, of which some is common to several commands.
QUICKER = {"XLA_FLAGS": QUICKLY, "JAX_NUM_CPU_DEVICES": "1"}


def commands():
    """Every `python PROGRAM ...` of the documents, once, with continued lines joined."""
    found = {}
    for source in SOURCES:
        text = (ROOT / source).read_text().replace("\\\n", " ")
        for line in re.findall(r"^ *(python \S+\.py\b.*?)(?:  +#.*)?$", text, re.MULTILINE):
            if "[" not in line and "--download" not in line:  # a synopsis, or 7 GB
                found.setdefault(" ".join(line.split()), source)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory, sprites) -> Path:
    """A folder with the programs, and the videos, lists and weights that the documents name."""
    place = tmp_path_factory.mktemp("place")
    drawn = ("docs/picture.py", "docs/curves.py")
    for name in ("main.py", "configs", "data", *drawn):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).symlink_to(ROOT / name)
    videos = sorted((sprites / "sprites").glob("*/*/*.avi"))
    shutil.copytree(sprites / "sprites", place / "clips", ignore=shutil.ignore_patterns("*.csv"))
    shutil.copy(videos[0], place / "clip.avi")

    lists = place / "ucfTrainTestlist"
    lists.mkdir()
    index = "".join(f"{k} {name}\r\n" for k, name in enumerate(UCF10, 1))
    (lists / "classInd.txt").write_text(index)
    train, test = [], []
    for k, name in enumerate(UCF10, 1):
        for group, listed in ((1, test), (8, train)):
            clip = f"{name}/v_{name}_g{group:02d}_c01.avi"
            (place / "UCF-101" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(videos[k % len(videos)], place / "UCF-101" / clip)
            listed.append(clip if listed is test else f"{clip} {k}")
    for number in (1, 2, 3):
        (lists / f"trainlist0{number}.txt").write_text("".join(f"{x}\r\n" for x in train))
        (lists / f"testlist0{number}.txt").write_text("".join(f"{x}\r\n" for x in test))
    _hmdb51(place, videos[:2])
    _table(place / "videos.csv", place / "clips")
    _images(place, [Path(clip.split()[0]) for clip in (*train, *test)])

    shapes = jax.eval_shape(SqueezeNet().init, jax.random.key(0), np.zeros((1, 64, 64, 3)))
    leaves = jax.tree_util.tree_leaves_with_path(shapes["params"])
    rng = np.random.default_rng(0)
    arrays = {
        "/".join(key.key for key in path): rng.normal(0, 0.05, leaf.shape).astype(np.float32)
        for path, leaf in leaves
    }
    np.savez(place / "squeezenet1_1_imagenet.npz", **arrays)
    for run in "ab":
        (place / run).mkdir()
        scores = rng.normal(size=(len(UCF10), len(UCF10)))
        about = {"dataset": "UCF-10", "split": "split1", "protocol": "1 position x 1 crop"}
        labels = np.arange(len(UCF10))
        save(Scores(scores, labels, UCF10, UCF10, about), place / run / "scores.npz")
    return place


def _hmdb51(place, videos):
    """Two clips of a class where its archive was unpacked to, and their lists."""
    (place / "testTrainMulti_7030_splits").mkdir()
    (place / "hmdb51_org" / "clap").mkdir(parents=True)
    names = [f"{name}_clap_u_nm_np1_fr_med_0.avi" for name in ("Song", "Talk")]
    for name, video in zip(names, videos, strict=True):
        shutil.copy(video, place / "hmdb51_org" / "clap" / name)
    for number in (1, 2, 3):
        lines = "".join(f"{name} {part} \n" for part, name in enumerate(names, 1))
        path = place / "testTrainMulti_7030_splits" / f"clap_test_split{number}.txt"
        path.write_text(lines)


def _table(path, clips):
    rows = ["path,label,split"]
    for video in sorted(clips.glob("*/*/*.avi")):
        part, label, name = video.relative_to(clips).parts
        rows.append(f"{part}/{label}/{name},{label},{part}")
    path.write_text("\n".join(rows))


def _images(place, videos):
    """Grey images of each listed video as twostreamfusion lays them out: 12 frames, no motion."""
    for video, (folder, count) in itertools.product(
        videos, {"jpegs_256": 12, "tvl1_flow/u": 11, "tvl1_flow/v": 11}.items()
    ):
        (place / folder / video.stem).mkdir(parents=True)
        for number in range(1, count + 1):
            path = place / folder / video.stem / f"frame{number:06d}.jpg"
            cv2.imwrite(str(path), np.full((72, 72), 128, np.uint8))


def test_the_documents_have_their_commands():
    """So that a change of their form cannot empty the next test."""
    texts = "\n".join(commands())
    for part in (
        "data/synthesize.py --out",
        "prepare.py --dataset=ucf101",
        "prepare.py --dataset=folder",
        "prepare.py --dataset=hmdb51",
        "prepare.py --dataset=csv",
        "prepare.py --verify",
        "--images=jpegs_256,tvl1_flow",
        "--mode=evaluate",
        "--mode=predict",
        "configs/ucf101.py:model=B,split=2",
        "docs/picture.py",
        "docs/curves.py",
        "configs/ucf101.py:stage=pyramid",
        "configs/hmdb51.py:stage=temporal",
        *(f"--mode={mode}" for mode in ("ablation", "fuse", "compare", "export", "weights")),
        *(f"configs/{path.name} --workdir" for path in (ROOT / "configs").glob("*.py")),
    ):
        assert part in texts


@pytest.mark.slow
def test_every_documented_command_runs(place, run):
    """In the order of the road: render, prepare, train, evaluate, predict, draw."""
    order = (
        "data/synthesize.py",
        "data/prepare.py",
        "main.py --config",
        "main.py --mode",
        "docs/",
    )
    # Stable: commands of a rank keep the documents' order, streams before the pyramid.
    found = sorted(commands().items(), key=lambda item: _rank(item[0], order))
    for line, source in found:
        _, program, *arguments = shlex.split(line)
        configured = "main.py" not in line or "--config" in line
        more = SHORTER[program] if configured and "--verify" not in line else []
        more = [flag for flag in more if "--images" not in line or flag != "--flow=dis"]
        if "main.py --config" in line and "configs/ucf101.py --workdir=ckpt " not in line:
            more = [*more, *SMALLER]
            if "--mode=ablation" in line:
                more += ["--seeds=0", "--rows=spatial"]
            elif "configs/quickstart.py --workdir=ckpt" not in line:
                more.append("--mode=train")
            if "training.weights=squeezenet" in line:
                more.append("--config.training.weights=")
        # The documents call every workdir `ckpt`; a workdir holds one run.
        arguments = [re.sub(r"=ckpt$", f"=ckpt-{_data(line)}", part) for part in arguments]
        result = run(program, *arguments, *more, cwd=place, **QUICKER)
        assert "Traceback" not in result.stderr, (source, line)


def _rank(line, order):
    return next(i for i, prefix in enumerate(order) if line.startswith(f"python {prefix}"))


def _data(line):
    return next((name for name in ("ucf10.", "hmdb51", "quickstart") if name in line), "ucf101")


@pytest.mark.slow
@pytest.mark.skipif(
    not (Path(sys.prefix) / ".run").exists(), reason="not in an environment that make installed"
)
def test_make_demo(tmp_path, compiled):
    """The recipe of `make demo`, a few clips and two steps of it, in this environment."""
    make = [
        "make",
        "demo",
        f"VENV={sys.prefix}",
        f"DEMO={tmp_path}",
        "DEMO_CLIPS=--train=1 --test=1",
        # As above, where the quickstart is compiled already.
        "DEMO_TRAIN=--config.training.steps=2 --config.training.batch_size=2",
    ]
    environment = {**os.environ, **QUICKER, **compiled}
    result = subprocess.run(
        make, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "mean class accuracy" in result.stdout
    assert (tmp_path / "run" / "evaluation" / "5x1-split1" / "confusion.png").exists()


def test_examples_in_docstrings_and_readme():
    names = {"jax": jax, "jnp": jax.numpy, **vars(stcb)}
    assert doctest.testmod(stcb, extraglobs=names).failed == 0
    from stpyramid_jax import experiment

    assert doctest.testmod(experiment).failed == 0
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    scope = {}
    exec(example, scope)
    assert scope["fused"].shape == (8, 7, 7, 4096)
