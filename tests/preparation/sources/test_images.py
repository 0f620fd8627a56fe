import itertools
import pickle
import shutil
from typing import Any

import cv2
import numpy as np
import pytest

from stpyramid_jax.preparation.sources.decode import UnreadableVideo, frames
from stpyramid_jax.preparation.sources.flow import dequantise, flow_fields, quantise
from stpyramid_jax.preparation.sources.images import Images
from stpyramid_jax.preparation.sources.videos import Videos

SIZE = (64, 48)
CLIP = "Jump/v_Jump_g01_c01.avi"


def decoded(image) -> Any:
    return cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.fixture(scope="module")
def prepared(clips):
    """Records of a video file as {"rgb": [...], "flow": [...]}, and what they were encoded from."""
    records = {"rgb": [], "flow": []}
    for family, image in Videos(clips, "dis", ("flow",)).records(CLIP, SIZE):
        records[family].append(image)
    images = list(frames(clips / CLIP, SIZE))
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    fields = [field for (field,) in flow_fields(grey, "dis")]
    return records, [cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in images], fields


# Names of frame k, and of the x and y of the field from frame k to k + 1; k counts from 0.
# dense_flow writes no image of the first frame; the field from it comes with the second.
LAYOUTS = {
    "dense_flow": ("img_{:05d}", 0, "flow_x_{:05d}", "flow_y_{:05d}", 1),
    "denseflow": ("img_{:05d}", 0, "flow_x_{:05d}", "flow_y_{:05d}", 0),
    "opencv": ("img_{:05d}", 1, "flow_x_{:05d}", "flow_y_{:05d}", 0),
    "image": ("image_{:04d}", 1, "flow_x_{:04d}", "flow_y_{:04d}", 1),
    "unpadded": ("img_{}", 1, "flow_x_{}", "flow_y_{}", 1),
}


def write_images(folder, images, fields, layout="denseflow", suffix=".png"):
    """Writes one video's images, lossless or as the programs do."""
    rgb, first_frame, x, y, first_field = LAYOUTS[layout]
    folder.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(images):
        if layout != "dense_flow" or k > 0:
            cv2.imwrite(str(folder / (rgb.format(k + first_frame) + suffix)), image)
    for k, field in enumerate(fields):
        for name, component in zip((x, y), field, strict=True):
            cv2.imwrite(str(folder / (name.format(k + first_field) + suffix)), component)


def write_archives(rgb, flow, name, images, fields, suffix=".png"):
    """The same as the archives of twostreamfusion."""
    for folder, series in ((rgb, images), (flow / "u", fields), (flow / "v", fields)):
        (folder / name).mkdir(parents=True)
        for k, image in enumerate(series):
            image = {"u": image[0], "v": image[1]}.get(folder.name, image)
            cv2.imwrite(str(folder / name / f"frame{k + 1:06d}{suffix}"), image)


def by_family(source, path=CLIP, size=SIZE):
    records = {"rgb": [], "flow": []}
    for family, image in source.records(path, size):
        records[family].append(image)
    return records["rgb"], records["flow"]


@pytest.mark.parametrize("folder", ["Jump/v_Jump_g01_c01", "v_Jump_g01_c01"])
@pytest.mark.parametrize("layout", ["denseflow", "opencv", "image", "unpadded"])
def test_lossless_images_give_the_records_of_the_video(tmp_path, prepared, layout, folder):
    records, images, fields = prepared
    write_images(tmp_path / folder, images, fields, layout)
    assert by_family(Images((tmp_path,))) == (records["rgb"], records["flow"])


def test_dense_flow_lacks_the_first_frame_and_its_field_goes_too(tmp_path, prepared):
    records, images, fields = prepared
    write_images(tmp_path / "v_Jump_g01_c01", images, fields, "dense_flow")
    assert len(list(tmp_path.rglob("img_*"))) == len(list(tmp_path.rglob("flow_x_*"))) == 15
    assert by_family(Images((tmp_path,))) == (records["rgb"][1:], records["flow"][1:])


@pytest.mark.parametrize("name", ["Jump/v_Jump_g01_c01", "v_Jump_g01_c01"])
def test_archives_of_frames_and_of_u_and_v(tmp_path, prepared, name):
    records, images, fields = prepared
    write_archives(tmp_path / "jpegs_256", tmp_path / "tvl1_flow", name, images, fields)
    source = Images((tmp_path / "jpegs_256", tmp_path / "tvl1_flow"))
    source.check()
    assert len(source.marks([CLIP])) == 1
    assert by_family(source) == (records["rgb"], records["flow"])


def test_jpegs_are_taken_over_and_fields_change_little(tmp_path, prepared):
    _, images, fields = prepared
    folder = tmp_path / "Jump/v_Jump_g01_c01"
    write_images(folder, images, fields, suffix=".jpg")
    rgb, flow = by_family(Images((tmp_path,)))
    assert rgb == [(folder / f"img_{k:05d}.jpg").read_bytes() for k in range(16)]
    for k, image in enumerate(flow):
        parts = [(folder / f"flow_{axis}_{k:05d}.jpg").read_bytes() for axis in "xy"]
        change = decoded(image).astype(int) - np.concatenate([decoded(part) for part in parts])
        assert np.abs(change).max() <= 2
        assert np.abs(change).mean() < 0.05


def test_real_flow_changes_little(tmp_path, real):
    clip = min((real / "ucf10/videos/PullUps").iterdir())
    images = list(itertools.islice(frames(clip, (340, 256)), 12))
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    fields = [field for (field,) in flow_fields(grey, "dis")]
    write_images(tmp_path / "a", images, fields, suffix=".jpg")
    _, flow = by_family(Images((tmp_path,)), "a", (340, 256))
    for k, image in enumerate(flow):
        parts = [(tmp_path / f"a/flow_{axis}_{k:05d}.jpg").read_bytes() for axis in "xy"]
        change = np.abs(decoded(image).astype(int) - np.concatenate([*map(decoded, parts)]))
        assert change.max() <= 2
        assert change.mean() < 0.03


def test_records_come_as_frame_field_frame(tmp_path, prepared):
    _, images, fields = prepared
    write_images(tmp_path / "a", images[:4], fields[:3])
    order = [family for family, _ in Images((tmp_path,)).records("a.avi", SIZE)]
    assert order == ["rgb", "flow", "rgb", "flow", "rgb", "flow", "rgb"]


def test_frames_alone_need_no_flow(tmp_path, prepared):
    records, images, fields = prepared
    write_images(tmp_path / "a", images, [])
    write_images(tmp_path / "b", images, fields)
    (tmp_path / "b" / "flow_x_00003.png").write_bytes(b"")
    source = Images((tmp_path,), motion=())
    assert len(source.marks(["a.avi"])) == 1
    for path in ("a.avi", "b.avi"):
        assert by_family(source, path) == (records["rgb"], [])


def test_frames_of_another_size_are_resized_as_those_of_a_video(tmp_path, clips, prepared):
    _, images, fields = prepared
    write_images(tmp_path / "a", images, fields)
    for size in ((80, 56), (32, 24)):
        rgb, flow = by_family(Images((tmp_path,)), "a.avi", size)
        expected = Videos(clips, "none", ()).records(CLIP, size)
        assert rgb == [image for _, image in expected]
        assert {decoded(image).shape for image in flow} == {(2 * size[1], size[0])}


def test_jpegs_of_another_size_are_encoded_again(folder):
    rgb, flow = by_family(Images((folder,)), "a.avi", (80, 56))
    assert {decoded(image).shape for image in rgb} == {(56, 80, 3)}
    assert {decoded(image).shape for image in flow} == {(112, 80)}


def test_resized_fields_have_displacements_of_the_new_size(tmp_path):
    # One displacement in each field: the size makes no other difference.
    displacements = [(0, 0), (8, -4), (-19.5, 12), (20, -20)]
    fields = [
        np.broadcast_to(quantise(np.array(v))[:, None, None], (2, 48, 64)) for v in displacements
    ]
    write_images(tmp_path / "a", np.zeros((5, 48, 64, 3), np.uint8), fields)
    for size in ((80, 72), (48, 24)):
        _, flow = by_family(Images((tmp_path,)), "a.avi", size)
        scale = np.divide(size, (64, 48))
        for image, v in zip(flow, displacements, strict=True):
            field = decoded(image).reshape(2, size[1], size[0])
            expected = np.clip(np.multiply(v, scale), -20, 20)[:, None, None]
            # Half a byte when it was written, scaled, and half a byte now.
            assert np.all(np.abs(dequantise(field) - expected) <= 20 / 255 * (scale.max() + 1.1))
        assert np.all(decoded(flow[0]) == 128)


def test_a_field_keeps_its_shape_when_it_is_resized(tmp_path):
    ramp = np.linspace(-10, 10, 64, dtype=np.float32)
    flow = np.stack([np.tile(ramp, (48, 1)), np.zeros((48, 64), np.float32)])
    write_images(tmp_path / "a", np.zeros((2, 48, 64, 3), np.uint8), [quantise(flow)])
    _, (image,) = by_family(Images((tmp_path,)), "a.avi", (96, 48))
    x = dequantise(decoded(image)[:48]).mean(0)
    expected = 1.5 * np.interp((np.arange(96) + 0.5) / 1.5 - 0.5, np.arange(64), ramp)
    assert np.abs(x - expected).max() < 0.4


def test_a_png_that_is_called_jpg_is_not_taken_over(tmp_path, prepared):
    records, images, fields = prepared
    write_images(tmp_path / "a", images, fields)
    for file in (tmp_path / "a").iterdir():
        file.rename(file.with_suffix(".JPG"))
    assert by_family(Images((tmp_path,)), "a.avi") == (records["rgb"], records["flow"])


@pytest.fixture
def folder(tmp_path, prepared):
    """A video `a` of 12 frames and 11 fields numbered from 0, and of 12 each from 1 as `b`."""
    _, images, fields = prepared
    write_images(tmp_path / "a", images[:12], fields[:11], suffix=".jpg")
    write_images(tmp_path / "b", images[:13], fields[:12], "dense_flow", ".jpg")
    return tmp_path


def unreadable(folder, path="a.avi"):
    with pytest.raises(UnreadableVideo) as caught:
        list(Images((folder,)).records(path, SIZE))
    return str(caught.value)


def cut(file):
    file.write_bytes(file.read_bytes()[:-20])


def claim(file):
    """Makes a JPEG's header say 65500x65500."""
    data = file.read_bytes()
    start = data.index(b"\xff\xc0") + 5
    file.write_bytes(data[:start] + b"\xff\xdc\xff\xdc" + data[start + 4 :])


def grey(height, width):
    return lambda file: cv2.imwrite(str(file), np.zeros((height, width), np.uint8))


def copied(name):
    return lambda file: shutil.copy(file, file.with_name(name))


DAMAGE = {
    "img_00005.jpg is lost": "frame img_00004.jpg is followed by img_00006.jpg",
    "img_00000.jpg is lost": "fields 0 to 10 do not fit frames 1 to 11",
    "img_00011.jpg is lost": "fields 0 to 10 do not fit frames 0 to 10",
    "flow_x_00002.jpg is lost": "x field flow_x_00001.jpg is followed by flow_x_00003.jpg",
    "flow_y_00002.jpg is lost": "y field flow_y_00001.jpg is followed by flow_y_00003.jpg",
    "flow_y_00010.jpg is lost": "x fields 0 to 10 do not fit y fields 0 to 9",
    "flow_x_00000.jpg is lost": "x fields 1 to 10 do not fit y fields 0 to 10",
    "flow_? is lost": "fields (none) do not fit frames 0 to 11",
    "flow_y is lost": "x fields 0 to 10 do not fit y fields (none)",
    "img is lost": "has no frames",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_lost_images_are_named(folder, damage):
    name = damage.split()[0]
    for file in (folder / "a").glob(name if "." in name else f"{name}_*"):
        file.unlink()
    assert unreadable(folder) == DAMAGE[damage]


def test_images_that_begin_late_are_named(folder):
    for kind in ("img", "flow_x", "flow_y"):
        (folder / "b" / f"{kind}_00001.jpg").unlink()
    assert unreadable(folder, "b.avi") == "begins with frame img_00002.jpg"


def test_as_many_fields_as_frames_are_dense_flows_alone(folder, tmp_path):
    assert len(list(Images((folder,)).records("b.avi", SIZE))) == 12 + 11
    for kind in ("img", "flow_x", "flow_y"):  # numbered from 0, no program's
        (folder / "b" / f"{kind}_00012.jpg").rename(folder / "b" / f"{kind}_00000.jpg")
    assert unreadable(folder, "b.avi") == "fields 0 to 11 do not fit frames 0 to 11"
    image = np.zeros((48, 64, 3), np.uint8)
    write_archives(tmp_path, tmp_path, "c", [image] * 12, [image[None, :, :, 0].repeat(2, 0)] * 12)
    assert unreadable(folder, "c.avi") == "fields 1 to 12 do not fit frames 1 to 12"


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("img_00003.jpg", cut, "frame img_00003.jpg does not decode"),
        ("flow_y_00003.jpg", cut, "y field flow_y_00003.jpg does not decode"),
        ("img_00011.jpg", lambda f: f.write_bytes(b""), "frame img_00011.jpg does not decode"),
        (
            "flow_x_00010.jpg",
            lambda f: f.write_text("x"),
            "x field flow_x_00010.jpg does not decode",
        ),
        ("img_00002.jpg", claim, "frame img_00002.jpg does not decode"),
        ("img_00007.jpg", grey(48, 62), "frame img_00007.jpg is 62x48, not 64x48"),
        ("flow_x_00004.jpg", grey(24, 32), "x field flow_x_00004.jpg is 32x24, not 64x48"),
        ("flow_y_00000.jpg", grey(24, 32), "y field flow_y_00000.jpg is 32x24, not 64x48"),
        ("img_00003.jpg", copied("img_3.png"), "frame img_00003.jpg is followed by img_3.png"),
        (
            "flow_y_00003.jpg",
            copied("FLOW_Y_00003.JPEG"),
            "y field FLOW_Y_00003.JPEG is followed by flow_y_00003.jpg",
        ),
    ],
)
def test_damaged_images_are_named(folder, name, damage, reason):
    damage(folder / "a" / name)
    assert unreadable(folder) == reason


def test_fields_of_other_numbers_do_not_pair(folder):
    (folder / "a" / "flow_x_00010.jpg").unlink()
    (folder / "a" / "flow_y_00000.jpg").unlink()
    assert unreadable(folder) == "x fields 0 to 9 do not fit y fields 1 to 10"


def test_what_is_no_file_is_lost(folder):
    file = folder / "a" / "img_00002.jpg"
    file.unlink()
    file.symlink_to(folder / "nowhere")  # as good as lost
    assert unreadable(folder) == "frame img_00001.jpg is followed by img_00003.jpg"
    file.unlink()
    file.mkdir()
    assert unreadable(folder) == "frame img_00001.jpg is followed by img_00003.jpg"


def test_an_image_that_goes_away_is_named(folder):
    records = Images((folder,)).records("a.avi", SIZE)
    next(records)
    (folder / "a" / "img_00002.jpg").unlink()
    with pytest.raises(UnreadableVideo, match=r"No such file .*img_00002\.jpg"):
        list(records)


def test_other_files_are_passed_over(folder, prepared):
    video = folder / "a"
    before = by_family(Images((folder,)), "a.avi"), Images((folder,)).marks(["a.avi"])
    for name in (
        "Thumbs.db",
        "._img_00003.jpg",
        "img_00003.jpg.tmp",
        "flow_00003.jpg",
        "img_x.jpg",
    ):
        (video / name).write_bytes(b"other")
    (video / "TSP_flows").mkdir()
    (video / "TSP_flows" / "img_00001.jpg").write_bytes(b"other")
    assert (by_family(Images((folder,)), "a.avi"), Images((folder,)).marks(["a.avi"])) == before


def test_a_grey_frame_becomes_one_of_three_channels(tmp_path, prepared):
    """Colour JPEG is what records hold; one that is stored as such is taken over."""
    _, images, fields = prepared
    write_images(tmp_path / "a", images, fields)
    for file in (tmp_path / "a").glob("img_*"):
        grey = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(file.with_suffix(".jpg")), grey)
        file.unlink()
    size = images[0].shape[1::-1]
    for family, data in Images((tmp_path,)).records("a.avi", size):
        if family == "rgb":
            stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            assert stored.shape == (*size[::-1], 3)


def test_marks_tell_what_is_there(folder):
    """Whatever is cut off, renumbered, or moved from x to y."""
    source = Images((folder,))
    marks = [source.marks(["a.avi"])]
    assert marks[0] == source.marks(["Jump/a.MP4"]) == source.marks(["a"])
    first, second = folder / "a" / "flow_x_00003.jpg", folder / "a" / "flow_y_00003.jpg"
    cut(first)
    marks.append(source.marks(["a.avi"]))
    first.rename(folder / "kept")
    second.rename(first)
    (folder / "kept").rename(second)
    marks.append(source.marks(["a.avi"]))
    first.rename(folder / "a" / "flow_x_00099.jpg")
    marks.append(source.marks(["a.avi"]))
    absent, there = source.marks(["c.avi", "a.avi"])
    assert [there] == marks[-1]
    assert len({absent, *(mark for (mark,) in marks)}) == 5
    (folder / "empty").mkdir()
    for path, there in {"a.avi": True, "a": True, "c.avi": False, "empty.avi": False}.items():
        assert source.holds(path) == there
    assert not source.holds("a.v2.avi")


NAMES = ("a b", "[a]*?", "-x", "ü 漢字", "new\nline", "q\"u'o;te&", "a.b.c", "%05d", "u")


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_found(tmp_path, folder, name):
    shutil.copytree(folder / "a", tmp_path / "all" / name / name)
    source = Images((tmp_path / "all",))
    assert source.holds(f"{name}/{name}.avi")
    assert source.holds(f"{name}/{name}")
    assert source.marks([f"{name}/{name}.avi"]) == Images((folder,)).marks(["a.avi"])
    assert by_family(source, f"{name}/{name}.avi") == by_family(Images((folder,)), "a.avi")


def lines(check, *arguments):
    with pytest.raises(ValueError, match=r".") as caught:
        check(*arguments)
    return str(caught.value).splitlines()


def test_folders_without_images_are_refused(tmp_path, folder):
    absent, empty = tmp_path / "absent", tmp_path / "empty"
    (empty / "Jump").mkdir(parents=True)
    assert lines(Images((absent, empty, folder)).check) == [f"{absent}: no such folder"]
    (line,) = lines(Images((empty, folder)).check)
    assert line.startswith(f"{empty}: holds no images; looked for <video>/img_00001.jpg, ")
    Images((folder,)).check()


def test_images_in_two_places_are_refused(folder):
    shutil.copytree(folder / "a", folder / "Jump" / "a")
    assert sorted(lines(Images((folder,)).marks, ["Jump/a.avi", "b.avi"])) == [
        f"Jump/a.avi: has {word}s in {folder}/Jump/a and in {folder}/a"
        for word in ("frame", "x field", "y field")
    ]
    # The same place by two ways is one.
    assert Images((folder, folder / "Jump")).marks(["b.avi"]) == Images((folder,)).marks(["b.avi"])


def test_one_place_of_two_videos_is_refused(folder):
    assert len(Images((folder,)).marks(["Jump/a.avi", "Run/b.avi"])) == 2
    assert lines(Images((folder,)).marks, ["Jump/a.avi", "Run/b.avi", "Run/a.avi"]) == [
        f"{folder}/a: is of Jump/a.avi and of Run/a.avi; use folders of classes"
    ]


def test_a_part_that_no_video_has_is_refused(tmp_path, prepared):
    _, images, fields = prepared
    write_archives(tmp_path / "rgb", tmp_path / "flow", "a", images, fields)
    write_archives(tmp_path / "rgb", tmp_path / "flow", "b", images, [])
    both = (tmp_path / "rgb", tmp_path / "flow")
    assert len(Images(both).marks(["a.avi", "b.avi"])) == 2
    assert [line.partition(" of the")[0] for line in lines(Images(both).marks, ["b.avi"])] == [
        f"{both[0]}, {both[1]}: no x fields",
        f"{both[0]}, {both[1]}: no y fields",
    ]


def test_a_worker_gets_the_same(folder):
    source = pickle.loads(pickle.dumps(Images((folder,))))
    assert by_family(source, "a.avi") == by_family(Images((folder,)), "a.avi")
