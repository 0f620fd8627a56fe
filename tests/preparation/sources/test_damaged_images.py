"""Images that are lost, damaged or in the wrong place: each is named."""

import shutil

import cv2
import numpy as np
import pytest

from stpyramid_jax.preparation.sources.decode import UnreadableVideo
from stpyramid_jax.preparation.sources.images import Images
from tests.preparation.sources.conftest import (
    SIZE,
    cut,
    write_archives,
)


def unreadable(folder, path="a.avi"):
    with pytest.raises(UnreadableVideo) as caught:
        list(Images((folder,)).records(path, SIZE))
    return str(caught.value)


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
