"""Every command and every example of the documents, run as it stands there.

A block that is not run has a comment before it that says why, as in
`<!-- needs: a Slurm cluster -->`.
"""

import csv
import doctest
import importlib
import itertools
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import jax
import numpy as np
import pytest

from configs import quickstart
from stpyramid_jax.evaluation.scores import Scores, save
from stpyramid_jax.models.backbones.squeezenet import SqueezeNet
from stpyramid_jax.preparation.annotations import read_table
from tests.conftest import QUICKLY, ROOT, load

PAGES = (
    "README.md",
    "data/README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)
# Programs whose docstrings hold commands.
PROGRAMS = (
    "main.py",
    "data/prepare.py",
    "data/synthesize.py",
    "docs/picture.py",
    "docs/curves.py",
    *sorted(f"configs/{path.name}" for path in (ROOT / "configs").glob("*.py")),
)
# Pages whose examples other tests run.
RUN_BY = {
    "docs/backbones.md": "tests/models/test_backbones.py",
    "docs/weights.md": "tests/models/pretrained/test_export.py",
    "docs/export.md": "tests/test_export.py",
    "docs/library.md": "tests/library/test_document.py",
}
RUN_HERE = ("README.md", "docs/model.md", "docs/extending.md")
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
    "data/probe.py": [],
    "docs/picture.py": [],
    "docs/curves.py": [],
}


# One run is of SqueezeNet, whose weights PyTorch knows; the others need not be.
SMALLER = ["--config.model.backbone=convnet", "--config.model.partial_bn=False"]

# Most of the time is compiling, of which some is common to several commands.
QUICKER = {"XLA_FLAGS": QUICKLY, "JAX_NUM_CPU_DEVICES": "1"}


class Block(NamedTuple):
    """A fenced block of a page; `needs` is what it lacks here, or empty."""

    page: str
    needs: str
    language: str
    text: str


def blocks() -> list[Block]:
    form = r"(?:^<!-- needs: (.+) -->\n\n)?^```(.*)\n((?s:.*?))^```$"
    return [
        Block(page, *found)
        for page in PAGES
        for found in re.findall(form, (ROOT / page).read_text(), re.MULTILINE)
    ]


def commands():
    """Every `python PROGRAM ...` that is to be run, once, with continued lines joined."""
    texts = [(block.page, block.text) for block in blocks() if not block.needs]
    texts += [(source, (ROOT / source).read_text()) for source in PROGRAMS]
    found = {}
    for source, text in texts:
        for line in lines(text):
            if line.startswith("python ") and "[" not in line:  # a synopsis
                found.setdefault(line, source)
    return found


def lines(text):
    """The commands of a text, with continued lines joined and without comments."""
    joined = (re.sub(r"(^| +)#.*", "", line) for line in text.replace("\\\n", " ").splitlines())
    return [" ".join(line.split()) for line in joined if line.strip()]


def test_every_block_is_run_or_says_what_it_needs():
    known, targets = commands(), (ROOT / "Makefile").read_text()
    for page, needs, language, text in blocks():
        where = f"{page}: {text.splitlines()[0]}"
        if needs:
            continue
        if language == "bash":
            for line in lines(text):
                target = line.removeprefix("make ")
                assert line in known or re.search(rf"^{re.escape(target)}:", targets, re.M), line
        elif language == "text":
            assert not re.search(r"^ *(python|make|pip) ", text, re.MULTILINE), where
        else:
            assert language in ("python", "pycon", "diff"), where
            assert page in (*RUN_BY, *RUN_HERE), where


def test_no_block_is_overlooked():
    """By an unusual fence, an unknown page or a mark that is not right before its block."""
    for page in PAGES:
        text = (ROOT / page).read_text()
        of_page = [block for block in blocks() if block.page == page]
        assert len(re.findall(r"^\s*(```|~~~)", text, re.MULTILINE)) == 2 * len(of_page), page
        assert text.count("<!-- needs") == sum(bool(block.needs) for block in of_page), page
    for page, test in RUN_BY.items():
        assert Path(page).name in (ROOT / test).read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory, sprites) -> Path:
    """A folder with the programs, and the videos, lists and weights that the documents name."""
    place = tmp_path_factory.mktemp("place")
    for name in ("main.py", "configs", "data", "docs/picture.py", "docs/curves.py"):
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
        "data/probe.py",
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
        "data/probe.py",
        "docs/",
    )
    # Stable: commands of a rank keep the documents' order, streams before the pyramid.
    found = sorted(commands().items(), key=lambda item: _rank(item[0], order))
    for line, source in found:
        result = run(*_shortened(line, place), cwd=place, **QUICKER)
        assert "Traceback" not in result.stderr, (source, line)


def _shortened(line, place):
    """A documented command as it is run here: with its patterns filled and flags for seconds."""
    _, program, *arguments = shlex.split(line)
    configured = program != "main.py" or "--config" in line
    more = SHORTER[program] if configured and "--verify" not in line else []
    more = [flag for flag in more if "--images" not in line or flag != "--flow=dis"]
    if program == "main.py" and configured and "configs/ucf101.py --workdir=ckpt " not in line:
        more = [*more, *SMALLER]
        if "training.weights=squeezenet" in line:
            more.append("--config.training.weights=")
        if "--mode=ablation" in line:  # one row: D, which probe.py looks at, or the first one named
            row = re.search(r"--rows=(\w+)", line)
            more += ["--seeds=0", f"--rows={row[1] if row else 'D'}"]
    if program == "main.py" and configured and "--mode" not in line and "quickstart" not in line:
        more.append("--mode=train")  # one of them is evaluated besides
    # The documents call every workdir `ckpt`; a workdir holds one run.
    arguments = [re.sub(r"=ckpt$", f"=ckpt-{_data(line)}", part) for part in arguments]
    filled = ([*map(str, place.glob(part))] if "*" in part else [part] for part in arguments)
    return [program, *itertools.chain.from_iterable(filled), *more]


def _rank(line, order):
    return next(i for i, prefix in enumerate(order) if line.startswith(f"python {prefix}"))


def _data(line):
    return next((name for name in ("ucf10.", "hmdb51") if name in line), "ucf101")


def test_make_demo_is_what_the_documents_have():
    """Command by command, of which the test above runs each."""
    make = ["make", "--dry-run", "demo", f"VENV={sys.prefix}"]
    shown = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = [line for line in lines(shown) if line.startswith(f"{sys.prefix}/bin/python ")]
    # The config's own folder, which the documents need not name.
    plain = [line.replace(" --config.data.dir=demo/shards", "") for line in found]
    plain = [line.replace(f"{sys.prefix}/bin/", "") for line in plain]
    assert quickstart.get_config().data.dir == "demo/shards"
    assert plain[-3:] == [
        "python data/synthesize.py --out=demo/sprites",
        "python data/prepare.py --dataset=folder --videos=demo/sprites --out=demo/shards "
        "--size=72x72",
        "python main.py --config=configs/quickstart.py --workdir=demo/run",
    ]
    assert {*plain[-3:]} <= commands().keys()


MODULES = [
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for path in sorted((ROOT / "stpyramid_jax").rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module):
    names = {"jax": jax, "jnp": jax.numpy}
    tried = doctest.testmod(importlib.import_module(module), extraglobs=names)
    assert tried.attempted
    assert not tried.failed


def test_the_readmes_example():
    scope = {}
    for block in blocks():
        if (block.page, block.language) == ("README.md", "python"):
            exec(block.text, scope)
    assert scope["fused"].shape == (8, 7, 7, 4096)


@pytest.mark.slow
def test_the_models_example_says_what_it_prints():
    (block,) = (b for b in blocks() if (b.page, b.language) == ("docs/model.md", "pycon"))
    example = doctest.DocTestParser().get_doctest(block.text, {}, block.page, None, None)
    assert doctest.DocTestRunner().run(example).failed == 0


def test_the_added_data_set_is_read(tmp_path, monkeypatch):
    """Lists with the columns of Kinetics, by the program of docs/extending.md."""
    (block,) = (b for b in blocks() if (b.page, b.language) == ("docs/extending.md", "python"))
    clips = {"train": [("abseiling", "_x-1", 20), ("zumba", "b", 0)], "val": [("zumba", "a,c", 7)]}
    for folder, found in clips.items():
        (tmp_path / "kinetics" / folder).mkdir(parents=True)
        with (tmp_path / "kinetics" / f"{folder}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
            writer.writerows([*clip, clip[-1] + 10, folder] for clip in found)
    for name in ("train/_x-1_000020_000030", "train/b_000000_000010", "val/a,c_000007_000017"):
        (tmp_path / "kinetics" / f"{name}.mp4").touch()
    monkeypatch.chdir(tmp_path)
    exec(block.text, {})
    listed = read_table(Path("kinetics.csv"), Path("kinetics"))
    assert listed.classes == ("abseiling", "zumba")
    assert [(v.path, v.class_name, v.splits) for v in listed.videos] == [
        ("train/_x-1_000020_000030.mp4", "abseiling", ("train",)),
        ("train/b_000000_000010.mp4", "zumba", ("train",)),
        ("val/a,c_000007_000017.mp4", "zumba", ("test",)),
    ]


def test_the_added_fusion_learns(tmp_path):
    """The change of docs/extending.md applies to the network as it is, and trains."""
    (block,) = (b for b in blocks() if (b.page, b.language) == ("docs/extending.md", "diff"))
    changed = tmp_path / "stpyramid_jax" / "models" / "pyramid.py"
    changed.parent.mkdir(parents=True)
    shutil.copy(ROOT / changed.relative_to(tmp_path), changed)
    apply = ["git", "apply", "--verbose", "-"]
    subprocess.run(apply, cwd=tmp_path, input=block.text, text=True, check=True)
    module = load(str(changed))
    config = module.ModelConfig(
        2, backbone="convnet", stream_fusion="product", snippet_length=1, sketch_dims=(8, 8, 16)
    )
    network = module.create_model(config)
    inputs = {"rgb": np.ones((2, 8, 8, 3), np.uint8), "flow": np.ones((2, 3, 8, 8, 2), np.uint8)}

    @jax.jit
    def gradients(key):
        variables = network.init(key, inputs, train=False)
        params = variables.pop("params")

        def loss(params):
            outputs = network.apply({"params": params, **variables}, inputs, train=False)
            return outputs.logits[:, 0].sum()

        return jax.grad(loss)(params)

    found = gradients(jax.random.key(0))
    assert {name for name in found if name.startswith("factor")} == {f"factor{i}" for i in range(3)}
    assert all(np.abs(found[f"factor{i}"]["kernel"]).max() > 0 for i in range(3))
    with pytest.raises(ValueError, match="did you mean 'product'"):
        module.ModelConfig(2, stream_fusion="produkt")
