"""Images give the records that the video gives, whichever program wrote them."""

import itertools
import pickle
import shutil

import cv2
import numpy as np
import pytest

from stpyramid_jax.preparation.sources.decode import frames
from stpyramid_jax.preparation.sources.flow import dequantise, flow_fields, quantise
from stpyramid_jax.preparation.sources.images import Images
from stpyramid_jax.preparation.sources.videos import Videos
from tests.preparation.sources.conftest import (
    CLIP,
    SIZE,
    by_family,
    cut,
    decoded,
    write_archives,
    write_images,
)


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


def test_a_worker_gets_the_same(folder):
    source = pickle.loads(pickle.dumps(Images((folder,))))
    assert by_family(source, "a.avi") == by_family(Images((folder,)), "a.avi")
