"""Progress as people see it."""

import io
import sys
import time

import pytest

from stpyramid_jax.progress import progress_bar


def test_plain_lines_come_every_ten_seconds(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress_bar(100, "videos") as show:
        for done in (40, 41, 50, 51, 70, 100):  # 40 were done by an earlier run
            show(done, f"{done} frames")
            now += 6
    assert capsys.readouterr().err.splitlines() == [
        "50/100 videos, 50 frames, 0:01:00 left",
        "70/100 videos, 70 frames, 0:00:24 left",
    ]


def test_work_that_stands_still_has_no_time_left(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress_bar(3, "clips") as show:
        show(1)
        now += 20
        show(1)
    assert capsys.readouterr().err == "1/3 clips, ? left\n"


@pytest.mark.parametrize("broken", [False, True])
def test_a_terminal_gets_a_bar_and_its_cursor_back(monkeypatch, broken):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")

    def work():
        with progress_bar(4, "videos") as show:
            show(2, "7 errors")
            if broken:
                raise KeyboardInterrupt

    if broken:
        with pytest.raises(KeyboardInterrupt):
            work()
    else:
        work()
    assert "2/4 videos, 7 errors" in terminal.getvalue()
    assert terminal.getvalue().rstrip().endswith("\x1b[?25h")
