"""The contact sheet: colours of directions, frames and flow of several classes."""

import cv2
import numpy as np
import pytest

from stpyramid_jax.preparation.verification import contact
from stpyramid_jax.preparation.verification.contact import contact_sheet
from stpyramid_jax.preparation.verification.verify import verify
from tests.preparation.verification.conftest import SIZE, build, field


def test_a_folder_that_cannot_be_written_to_is_sound(prepared, monkeypatch, capsys):
    def full(path, _):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(contact, "write", full)
    assert verify(prepared) is True
    assert "contact.png cannot be written: Read-only file system" in capsys.readouterr().out


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
    for name, colour in (("right", (255, 0, 0)), ("down $x$", (255, 234, 0))):
        expected = 2 * contact.INSTANTS * (name in chosen)
        assert share(colour) == pytest.approx(expected, abs=0.2 * expected + 0.1)
