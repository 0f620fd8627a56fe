"""The page in a real browser: it loads without a word on the console, and does what it promises."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from stpyramid_jax.evaluation.report import write_report
from tests.evaluation.test_report import HOSTILE, PROTOCOL, RUN, clips, observed

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on PATH")

# What a user does, and what is there to be seen after each act.
ACTS = """
addEventListener("load", () => {
  const said = {};
  const cells = k => [...document.querySelectorAll("#per-class tbody tr")]
    .filter(row => row.checkVisibility()).map(row => row.cells[k].textContent);
  const heads = document.querySelectorAll("#per-class th");
  const filter = document.getElementById("filter");
  for (const [k, name] of ["class", "clips", "correct", "accuracy"].entries()) {
    heads[k].firstChild.click();
    said[name] = cells(k);
    heads[k].firstChild.click();
    said[name + " again"] = cells(k);
  }
  said.order = [...heads].map(head => head.getAttribute("aria-sort"));
  filter.value = "QUO";
  filter.dispatchEvent(new Event("input"));
  said.filtered = [cells(0), document.getElementById("shown").textContent];
  filter.value = "";
  filter.dispatchEvent(new Event("input"));
  said.unfiltered = cells(0).length;

  const matrix = document.getElementById("matrix"), cell = document.getElementById("cell");
  const move = (clientX, clientY) =>
    matrix.dispatchEvent(new PointerEvent("pointermove", {clientX, clientY}));
  said.before = cell.checkVisibility();
  said.cells = [...matrix.querySelectorAll("rect.right, rect.wrong")].map(rect => {
    const box = rect.getBoundingClientRect();
    move(box.x + box.width / 2, box.y + box.height / 2);
    return cell.textContent;
  });
  said.during = cell.checkVisibility();
  move(0, 0);
  said.after = cell.checkVisibility();
  said.keyed = ["ArrowUp", "ArrowLeft", "ArrowUp", "ArrowRight"].map(key => {
    matrix.dispatchEvent(new KeyboardEvent("keydown", {key}));
    return cell.textContent;
  });

  document.querySelector(".legend button").click();
  said.dim = document.querySelectorAll("circle.dim").length;
  said.dots = document.querySelectorAll("circle").length;
  said.pictures = [...document.images].map(image => image.naturalWidth);
  said.wide = document.documentElement.scrollWidth;
  said.room = innerWidth;
  const result = document.createElement("pre");
  result.id = "said";
  result.textContent = JSON.stringify(said);
  document.body.append(result);
});
"""


def browse(path, folder):
    """The page's document after its scripts have run, and what the console was told."""
    flags = "--headless --no-sandbox --disable-gpu --enable-logging=stderr --dump-dom"
    result = subprocess.run(
        [
            BROWSER,
            *flags.split(),
            "--virtual-time-budget=5000",
            f"--user-data-dir={folder / 'profile'}",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, re.findall(r".*CONSOLE.*", result.stderr)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What the acts found on the page of a report with hostile names."""
    folder = tmp_path_factory.mktemp("a report # of 100 %")
    scores, labels, names = clips()
    write_report(folder, scores, labels, names, HOSTILE, PROTOCOL, observed(labels), RUN)
    text = (folder / "report.html").read_text(encoding="utf-8")
    acted = folder / "acted.html"
    acted.write_text(text.replace("</body>", f"<script>{ACTS}</script></body>"), encoding="utf-8")
    document, console = browse(acted, folder)
    (found,) = re.findall(r'<pre id="said">(.*?)</pre>', document, re.DOTALL)
    counts = np.array(json.loads(re.search(r'id="counts">(.*?)</script>', text)[1])["counts"])
    return json.loads(html.unescape(found)) | {"console": console, "counts": counts, "text": text}


def test_the_console_stays_silent_and_nothing_is_fetched(said, tmp_path):
    assert said["console"] == []
    # And it would be heard: an error, and an address that the page's policy forbids.
    more = '<img src="http://127.0.0.1:9/picture.png"><script>fail()</script></body>'
    (tmp_path / "more.html").write_text(said["text"].replace("</body>", more), encoding="utf-8")
    console = browse(tmp_path / "more.html", tmp_path)[1]
    assert len(console) == 2
    assert [sum(part in line for line in console) for part in ("Security Policy", "fail")] == [1, 1]


def test_a_click_sorts_and_another_sorts_the_other_way(said):
    accuracies = [float(cell.split()[0]) for cell in said["accuracy"]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > accuracies[-1]
    assert said["accuracy again"] == said["accuracy"][::-1]
    assert sorted(said["class"]) == sorted(HOSTILE)
    assert said["class again"] == said["class"][::-1]
    correct = [int(cell) for cell in said["correct"]]
    assert correct == sorted(np.diag(said["counts"]), reverse=True)
    assert said["order"] == [None, None, None, "ascending", None]


def test_typing_filters_by_name_whatever_the_case(said):
    assert said["filtered"] == [[HOSTILE[1]], "1 of 4 classes"]
    assert said["unfiltered"] == 4


def test_pointing_at_a_cell_tells_it(said):
    counts = said["counts"]

    def told(i, j):
        share = f"{counts[i, j]} of 6{{}} ({100 * counts[i, j] / 6:.1f} %)"
        if i == j:
            return f"{HOSTILE[i]}: {share.format(' right')}"
        return f"{HOSTILE[i]} taken for {HOSTILE[j]}: {share.format('')}"

    cells = np.argwhere(counts).tolist()
    assert said["cells"] == [told(i, j) for i, j in cells]
    assert (said["before"], said["during"], said["after"]) == (False, True, False)
    # The first key goes on from the cell that was pointed at last.
    assert cells[-1] == [3, 3]
    assert said["keyed"] == [told(3, 3), told(3, 2), told(2, 2), told(2, 3)]


def test_pictures_are_there_and_a_class_can_be_seen_alone(said):
    assert len(said["pictures"]) > 3
    assert all(width > 0 for width in said["pictures"])
    assert said["dots"] == 2 * 24
    assert said["dim"] == 2 * 18
    assert said["wide"] <= said["room"]
