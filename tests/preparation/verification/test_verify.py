"""A prepared folder and its damages: each is found, named by file and record, and none raises."""

import csv
import hashlib
import io
import json
import shutil
import zipfile

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpyramid_jax import records
from stpyramid_jax.preparation.annotations import ListedVideo
from stpyramid_jax.preparation.choices import Choices
from stpyramid_jax.preparation.run import prepare
from stpyramid_jax.preparation.verification import contact
from stpyramid_jax.preparation.verification.audit import EVERY, image_of
from stpyramid_jax.preparation.verification.contact import contact_sheet, flow_colours
from stpyramid_jax.preparation.verification.contents import PreparedVideo
from stpyramid_jax.preparation.verification.inspection import inspect
from stpyramid_jax.preparation.verification.verify import verify
from stpyramid_jax.preparation.writing import output, shards

SIZE = (64, 48)  # of what is prepared here, width and height


def jpeg(image):
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def field(x, y):
    """The bytes of a field of one displacement."""
    planes = [np.full(SIZE[::-1], round(255 * (v + 20) / 40 + 1e-9), np.uint8) for v in (x, y)]
    return jpeg(np.concatenate(planes))


def build(folder, clips, families=("rgb", "flow"), colour=(10, 200, 90), first=0):
    """A prepared folder of clips: (name, class) to the bytes of their fields.

    Frames have one colour and are counted from `first`.
    """
    folder.mkdir()
    classes = sorted({name for _, name in clips})
    plan = {
        "format": 2,
        "name": "set",
        "classes": classes,
        "splits": ["split1"],
        "families": list(families),
        "parameters": {"size": list(SIZE), "flow": {"bound": 20.0}},
    }
    videos = [
        ListedVideo(name, f"{name}.avi", kind, classes.index(kind), name, ("train",))
        for name, kind in clips
    ]
    output.begin(folder, plan)
    shares = shards.shard_shares(len(videos))
    frame = jpeg(np.full((*SIZE[::-1], 3), colour[::-1], np.uint8))
    for number, share in enumerate(shares):
        with shards.ShardWriter(folder, "set", number, len(shares), families) as shard:
            for video in videos[share]:
                common = {"video": video.name.encode(), "label": video.label}
                fields = clips[video.name, video.class_name]
                for k in range(len(fields) + 1):
                    shard.files["rgb"].append(image=frame, frame=first + k, **common)
                for family in families[1:]:
                    for k, image in enumerate(fields):
                        shard.files[family].append(image=image, frame=first + k, **common)
                shard.keep(video)
    output.finalise(folder, plan, videos)
    return folder


def sign(folder, **changes):
    """Makes `dataset.json` agree with the files as they are, and with `changes`."""
    dataset = json.loads((folder / "dataset.json").read_text()) | changes
    for name in dataset["files"]:
        data = (folder / name).read_bytes()
        dataset["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    dataset["digest"] = output.digest_of(dataset["parameters"], dataset["files"])
    (folder / "dataset.json").write_text(json.dumps(dataset))


def edit(folder, *replacements):
    """Replaces words of `videos.csv` and signs the folder again."""
    text = (folder / "videos.csv").read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    (folder / "videos.csv").write_text(text)
    sign(folder)


@pytest.fixture(scope="module")
def prepared(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepare(Choices("folder", clips, out, flow="dis", size=SIZE, workers=1))
    return out


@pytest.fixture
def copy(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "copy")


def test_a_sound_folder_is_counted(prepared):
    report = inspect(prepared)
    assert report.problems == []
    rows = list(csv.DictReader((prepared / "videos.csv").read_text().splitlines()))
    for family, column, known in (("rgb", "frames", 48), ("flow", "fields", 45)):
        tally = report.tallies[family]
        files = prepared.glob(f"*-{family}.tfrecord-*")
        assert tally.records == sum(int(row[column]) for row in rows) == known
        assert tally.bytes == sum(path.stat().st_size for path in files)
        assert tally.decoded == known  # each shard has one video here
    # The clips move by (2, 1) pixels a frame.
    assert report.tallies["flow"].length / 45 == pytest.approx(np.hypot(2, 1), rel=0.2)


def test_statistics_of_known_fields(tmp_path):
    clips = {("a", "A"): [field(0, 0)] * 3 + [field(3, 4)] * 2 + [field(20, -20)] * 5}
    tally = inspect(build(tmp_path / "set", clips, ("rgb", "flow", "warped"))).tallies
    assert tally["flow"] == tally["warped"]
    assert tally["flow"].length == pytest.approx(2 * 5 + 5 * 20 * 2**0.5, rel=0.02)
    assert (tally["flow"].clipped, tally["flow"].static) == (5, 3)


def test_the_sample_is_the_first_video_and_every_16th_record(tmp_path):
    clips = {(f"{n:02}", "A"): [field(0, 0)] * 11 for n in range(33)}
    tally = inspect(build(tmp_path / "set", clips)).tallies
    counts = [12 * len(range(33)[share]) for share in shards.shard_shares(33)]
    assert tally["rgb"].records == sum(counts) == 396
    expected = sum(sum(k < 12 or k % EVERY == 0 for k in range(count)) for count in counts)
    assert tally["rgb"].decoded == expected == 16 * 12 + 16 + 1


def test_frames_alone_are_sound_too(tmp_path):
    clips = {("a", "A"): [field(0, 0)] * 3, ("b", "B"): [field(0, 0)]}
    folder = build(tmp_path / "set", clips, ("rgb",))
    assert inspect(folder).problems == []
    assert verify(folder)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_every_damage_is_named(prepared, tmp_path_factory, data):
    names = sorted({path.name for path in prepared.iterdir()} - {"contact.png"})
    name = data.draw(st.sampled_from(names))
    folder = tmp_path_factory.mktemp("damaged")
    for other in names:
        (folder / other).hardlink_to(prepared / other)
    path, whole = folder / name, (folder / name).read_bytes()
    path.unlink()
    kind = data.draw(st.sampled_from(["flip", "cut", "add", "remove"]))
    place = data.draw(st.integers(0, len(whole) - 1))
    if kind == "flip":
        bit = 1 << data.draw(st.integers(0, 7))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
    elif kind == "cut":
        path.write_bytes(whole[:place])
    elif kind == "add":
        path.write_bytes(whole + b"x")
    problems = inspect(folder).problems
    shutil.rmtree(folder)
    if kind == "cut" and path.name == "dataset.json" and whole[place:] == b"\n":
        return  # the same JSON
    assert any(path.name in problem for problem in problems)
    assert all(len(problem) < 2000 and problem.isprintable() for problem in problems)
    if kind == "flip" and ".tfrecord-" in path.name:
        starts = np.cumsum([0, *record_sizes(whole)])
        record = int(np.searchsorted(starts, place, "right")) - 1
        (line,) = (problem for problem in problems if ": record " in problem)
        assert line.startswith(f"{path.name}: record {record} (")
        assert f"at offset {starts[record]};" in line


def record_sizes(data):
    """Lengths of the records of a shard, by their own headers."""
    while data:
        length = 16 + int.from_bytes(data[:8], "little")
        yield length
        data = data[length:]


def test_a_folder_that_is_not_complete_is_one_line(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "absent"):
        assert verify(folder) is False
        out, error = capsys.readouterr()
        assert out == ""
        assert error.count("\n") == 1
        assert error.startswith(f"error: {folder}: no dataset.json, so no complete data set; ")


HOSTILE = [
    "",
    "[]",
    "null",
    "{",
    "[" * 100_000,
    '"\\ud800"',
    "\ufeff{}",
    "1e999",
    '{"format": [2]}',
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_description_of_something_else_is_one_line(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    (problem,) = inspect(tmp_path).problems
    assert problem.startswith("dataset.json: ")


@pytest.mark.parametrize(
    ("change", "sign_of_it"),
    [
        ({"shards": 10**12}, "shards are 1000000000000, files are"),
        ({"shards": True}, "shards is of type bool, not int"),
        ({"classes": [["Jump"], "Run"]}, "classes are not different names"),
        ({"classes": ["Run", "Run"]}, "classes are not different names"),
        ({"families": ["rgb", "depth"]}, "families are ['rgb', 'depth']"),
        ({"families": ["rgb", "flow", "warped"]}, "'clips-warped.tfrecord-00000-of-00003' is not"),
        ({"name": "../x\ud800"}, "is not among the files"),
        ({"parameters": {"size": "64x48", "flow": {"bound": 20}}}, "parameters.size is '64x48'"),
        ({"parameters": {"size": [64, 48], "flow": []}}, "parameters.flow.bound is None"),
        ({"files": {"../../etc/passwd": {"bytes": 1, "sha256": ""}}}, "'../../etc/passwd'"),
        ({"files": {"a\nb": {}}, "splits": [1]}, r"'a\nb'"),
        ({"rgb_frames": 47}, "48 rgb_frames are listed, dataset.json says 47"),
        ({"errors": 1}, "0 errors are listed, dataset.json says 1"),
        ({"splits": ["other"]}, "videos.csv: its first line is not name,path,"),
        ({"digest": "0" * 64}, "digest is not that of its parameters and files"),
    ],
)
def test_a_description_that_cannot_be_is_refused_by_name(copy, change, sign_of_it):
    dataset = json.loads((copy / "dataset.json").read_text()) | change
    if "digest" not in change:
        dataset["digest"] = output.digest_of(dataset["parameters"], dataset["files"])
    (copy / "dataset.json").write_text(json.dumps(dataset))
    assert any(sign_of_it in problem for problem in inspect(copy).problems)


@pytest.mark.parametrize(
    ("replacement", "sign_of_it"),
    [
        (("Jump,0", "Jump,1"), "row 1: label 1 is not that of 'Jump'"),
        (("Jump,0", "Hop,0"), "row 1: unknown class 'Hop'"),
        (("16,15,0", "16,16,0"), "row 1: 16 fields between 16 frames"),
        (("16,15,0", "16,15,3"), "row 1: shard 3, of 3"),
        (("16,15,0", "16,15,x"), "row 1: invalid literal for int()"),
        (("16,15,0", "17,16,0"), "49 rgb_frames are listed, dataset.json says 48"),
        (("16,15,0,test", "16,15,0,both"), "row 1: parts 'both', not train, test or none"),
        (("Jump_g02,12", "Jump_g01,12"), "group 'Jump_g01' is on both sides of split1"),
        (("16,15,0", "16,15,0,0"), "row 1: has 10 columns, not 9"),
        (("v_Jump_g02", "v_Jump_g01"), "'Jump/v_Jump_g01_c01' is listed 2 times"),
        (("Jump", '"Jump'), "videos.csv: "),
    ],
)
def test_lists_that_contradict_each_other_are_named(copy, replacement, sign_of_it):
    edit(copy, replacement)
    problems = inspect(copy).problems
    assert any(problem.startswith("videos.csv: ") for problem in problems)
    assert any(sign_of_it in problem for problem in problems)


@pytest.mark.parametrize(
    ("replacement", "expected"),
    [
        (
            ("v_Jump_g01", "v_Jump_g09"),
            "not {'frame': 0, 'label': 0, 'video': b'Jump/v_Jump_g09_c01'}",
        ),
        (
            ("avi,Jump,0", "avi,Run,1"),
            "not {'frame': 0, 'label': 1, 'video': b'Jump/v_Jump_g01_c01'}",
        ),
    ],
)
def test_records_of_another_list_are_named(copy, replacement, expected):
    """A list that agrees with itself: only the records tell."""
    edit(copy, replacement)
    problems = inspect(copy).problems
    assert len(problems) == 2 * (5 + 1)  # of each family five and a count
    name = "clips-rgb.tfrecord-00000-of-00003"
    assert problems[6].startswith(f"{name}: record 0 ('Jump/v_Jump_g0")
    assert ") at offset 0: is {" in problems[6]
    assert problems[6].endswith(expected)
    assert problems[11] == f"{name}: and 11 more damaged records"


def test_records_that_are_counted_wrongly_are_named(tmp_path):
    folder = build(tmp_path / "set", {("a", "A"): [field(0, 0)]}, first=1)
    problems = inspect(folder).problems
    assert len(problems) == 3
    for problem, number in zip(problems, (1, 1, 2), strict=True):
        assert f": is {{'frame': {number}, 'label': 0, 'video': b'a'}}, not {{" in problem


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"\n\x09\n\x07\n\x01x\x12\x02\x12\x00",  # a feature of floats, and none of them
        records.encode_example({"image": 1, "video": b"a", "frame": 0, "label": 0}),
        records.encode_example({"image": b"", "video": b"a", "frame": b"", "label": 0}),
        records.encode_example({"image": b"", "video": b"a", "frame": 0, "label": 0, "more": 0}),
    ],
)
def test_payloads_of_something_else_are_refused(payload):
    video = PreparedVideo("a", "a.avi", "A", 0, "a", ("train",), frames=2, fields=1, shard=0)
    with pytest.raises(ValueError, match=r"^here: "):
        image_of(payload, video, 0, "here")


def test_swapped_shards_are_named(copy):
    first, second = sorted(copy.glob("*-rgb.tfrecord-*"))[:2]
    first.rename(copy / "tmp")
    second.rename(first)
    (copy / "tmp").rename(second)
    problems = inspect(copy).problems
    for path in (first, second):
        assert any(problem.startswith(f"{path.name}: has ") for problem in problems)
    stranger = copy / "clips-rgb.tfrecord-00000-of-00002"
    stranger.write_bytes(b"")
    assert f"{stranger.name!r}: not of this data set" in inspect(copy).problems


def shifted(offsets):
    return {**offsets, "rgb_offsets": offsets["rgb_offsets"] + 1}


def huge(offsets):
    offsets["flow_offsets"][3] = 2**63 - 1
    offsets["flow_offsets"][4] = -(2**63)
    return offsets


def unsorted(offsets):
    offsets["rgb_offsets"][3:5] = offsets["rgb_offsets"][4:2:-1]
    return offsets


@pytest.mark.parametrize(
    ("change", "sign_of_it"),
    [
        (shifted, "rgb of 'Jump/v_Jump_g01_c01' is not after the video before"),
        (huge, "flow of 'Jump/v_Jump_g01_c01' is not after"),
        (unsorted, "rgb of 'Jump/v_Jump_g01_c01' is not after"),
        (lambda o: {**o, "rgb_offsets": o["rgb_offsets"][:-1]}, "int64(50,), of other videos"),
        (lambda o: {**o, "rgb_offsets": o["rgb_offsets"] * 1.0}, "float64(51,), of other videos"),
        (lambda o: {"rgb_offsets": o["rgb_offsets"]}, "not an index (KeyError"),
        (lambda o: {**o, "rgb_offsets": np.array([{}])}, "not an index (ValueError"),
    ],
)
def test_an_index_of_something_else_is_named(copy, change, sign_of_it):
    with np.load(copy / "index.npz") as index:
        np.savez(copy / "index.npz", **change(dict(index)), allow_pickle=True)
    sign(copy)
    problems = inspect(copy).problems
    assert any(p.startswith("index.npz: ") and sign_of_it in p for p in problems)


def test_bytes_behind_the_last_record_are_named(copy):
    path = copy / "clips-flow.tfrecord-00001-of-00003"
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(records.encode_record(b"more"))
    sign(copy)
    found = f"index.npz: flow of shard 1 ends at {size}, its file at {size + 20}"
    assert found in inspect(copy).problems


def test_an_index_that_is_no_archive_is_named(copy):
    bad = io.BytesIO()
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr(
            "rgb_offsets.npy", b"\x93NUMPY\x01\x00\x76\x00{'descr': '<i8'" + b"(" * 999
        )
    for data in (b"", b"PK", bad.getvalue(), b"\x93NUMPY\x01\x00"):
        (copy / "index.npz").write_bytes(data)
        sign(copy)
        assert any(p.startswith("index.npz: not an index (") for p in inspect(copy).problems)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (b"", "no image"),
        (b"\xff\xd8 no JPEG", "no image"),
        (jpeg(np.zeros((48, 64, 3), np.uint8)), "an image of shape (48, 64, 3)"),
        (jpeg(np.zeros((48, 64), np.uint8)), "an image of shape (48, 64)"),
    ],
)
def test_images_of_something_else_are_named(tmp_path, image, found):
    folder = build(tmp_path / "set", {("a", "A"): [field(0, 0), image]})
    (problem,) = inspect(folder).problems
    place = "set-flow.tfrecord-00000-of-00001: record 1 ('a' 1) at offset "
    assert problem.startswith(place)
    assert problem.endswith(f": {found}, not one of (96, 64)")


def test_the_command_tells_and_draws(prepared, copy, capsys):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert verify(copy) is True
    out, error = capsys.readouterr()
    assert error == ""
    lines = out.splitlines()
    assert lines[-1] == f"{copy}: sound; for a look at it: {copy / 'contact.png'}"
    assert [line.split()[:2] for line in lines[1:3]] == [["rgb", "48"], ["flow", "45"]]
    after = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert after.pop("contact.png").startswith(b"\x89PNG")
    assert after == before
    assert verify(copy) is True  # with the picture there, too

    (copy / "videos.csv").unlink()
    capsys.readouterr()
    assert verify(copy) is False
    assert "error: videos.csv: missing\n" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_sound(prepared, monkeypatch, capsys):
    def full(path, _):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(contact, "write", full)
    assert verify(prepared) is True
    assert "contact.png cannot be written: Read-only file system" in capsys.readouterr().out


def test_colours_of_directions():
    flow = np.array([[[5, 0], [0, 5], [-5, 0], [0, -5], [0, 0], [2.5, 0], [99, 0]]])
    pure = [[255, 0, 0], [128, 255, 0], [0, 255, 255], [128, 0, 255]]
    expected = [[*pure, [255, 255, 255], [255, 128, 128], [255, 0, 0]]]
    assert np.abs(flow_colours(flow, 5).astype(int) - expected).max() <= 1


def test_the_sheet_shows_frames_and_flow_of_different_classes(tmp_path):
    names = ("right", "down $x$", "Ünïcode 動", "long " * 60, "line\nbreak", *"abcdefg")
    clips = {(f"{name}/clip", name): [field(0, 0)] * 9 for name in names}
    clips["right/clip", "right"] = [field(20, 0)] * 9
    clips["down $x$/clip", "down $x$"] = [field(0, 20)] * 9
    folder = build(tmp_path / "set", clips, ("rgb", "flow", "warped"))
    path = contact_sheet(folder)
    data = np.frombuffer(path.read_bytes(), np.uint8)
    sheet = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), int)
    pictures = contact.CLIPS * contact.INSTANTS
    area = (100 * contact.WIDTH) ** 2 * SIZE[1] / SIZE[0]  # pixels of one picture

    def share(colour):
        """Pictures' worth of pixels of a colour."""
        return (np.abs(sheet - colour).max(axis=-1) <= 6).sum() / area

    assert share((10, 200, 90)) == pytest.approx(pictures, rel=0.2)
    chosen = {
        sorted(names)[k] for k in np.linspace(0, len(names) - 1, contact.CLIPS).round().astype(int)
    }
    for name, colour in (("right", (255, 0, 0)), ("down $x$", (128, 255, 0))):
        expected = 2 * contact.INSTANTS * (name in chosen)
        assert share(colour) == pytest.approx(expected, abs=0.2 * expected + 0.1)
