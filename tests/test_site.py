"""The site of the documents: what is made from the code, that links lead somewhere, the build."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

import stpyramid_jax
from stpyramid_jax.experiment import OptimizerConfig, default_config
from tests.conftest import QUICKLY, ROOT, load

HERE = "https://example.org/us"
keys = load("docs/keys.py")


def leaves(tree, prefix=""):
    for key, value in tree.items():
        yield from leaves(value, f"{key}.") if isinstance(value, dict) else [prefix + key]


def test_every_key_of_a_configuration_is_told():
    text = keys.reference()
    assert sorted(re.findall(r'<a id="(.+?)">', text)) == sorted(leaves(default_config().to_dict()))
    assert not re.search(r"^: *$", text, re.MULTILINE)


def entry(key):
    (found,) = re.findall(
        rf'<a id="{re.escape(key)}">.*?(?=\n\n<a|\n\n## |\Z)', keys.reference(), re.S
    )
    return found


def test_an_entry_has_what_the_code_has():
    multiplier = entry("optimizer.temporal_multiplier")
    assert "float, `1`" in multiplier
    assert "Factors on the rate of a stream." in multiplier
    # hmdb51 takes the config of ucf101, and has its comment; ucf10 sets the default again.
    assert "`5` (TSN: .005 for flow) in ucf101, hmdb51." in multiplier
    assert "`224` (TSN) in ucf101, hmdb51; `112` in ucf10; `64` in quickstart." in entry(
        "input.crop"
    )
    # A default is told where a comment says why it is right; quickstart has it for no reason.
    assert "Configs: `0.9` (TSN) in ucf101, hmdb51, ucf10." in entry("optimizer.momentum")
    assert "One of `score`, `concat`, `sum`, `stcb`." in entry("model.stream_fusion")
    assert "int, must be set" in entry("training.steps")
    assert "`(10, 10)` (Hops follow each other" in entry("input.tau")


def test_a_comment_belongs_to_its_value(tmp_path):
    (tmp_path / "config.py").write_text(
        "config.model.update(\n"
        "    a=1,  # beside\n"
        "    # above,\n"
        "    # in two lines\n"
        "    b=(\n        2,\n    ),\n"
        "    c='# none',\n"
        ")\n"
        "# of the statement\n"
        "config.input.update(d=4, e=5)  # of both\n"
    )
    assert keys.read_comments(tmp_path / "config.py") == {
        "model.a": "beside",
        "model.b": "above, in two lines",
        "model.c": "",
        "input.d": "of both",
        "input.e": "of both",
    }


def test_a_field_without_a_meaning_stops_the_build(monkeypatch):
    about = OptimizerConfig.__doc__
    assert about is not None
    monkeypatch.setattr(OptimizerConfig, "__doc__", about.replace("warmup:", "warming:"))
    with pytest.raises(ValueError, match=r"^OptimizerConfig: its docstring .* nothing of warmup$"):
        keys.reference()


def test_the_api_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text()
    told = set(re.findall(r"^::: (\S+)$", page, re.MULTILINE))
    public = [*stpyramid_jax.__all__, *stpyramid_jax._WITH_EXTRAS]
    for thing in (getattr(stpyramid_jax, name) for name in public):
        assert f"{thing.__module__}.{thing.__name__}" in told


@pytest.fixture
def pages():
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    return load("docs/pages.py")


def test_links_lead_to_what_is_there(pages):
    guides = (f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
    for page in ("README.md", "data/README.md", *guides):
        for target in pages.targets((ROOT / page).read_text(), page):
            assert target == "docs/data.md" or (ROOT / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize(
    ("source", "link", "there"),
    [
        ("docs/a.md", "stcb.md#the-rule", "stcb.md#the-rule"),
        ("docs/a.md", "figures/clip.svg", "figures/clip.svg"),
        ("docs/a.md", "../data/README.md#hmdb51", "data.md#hmdb51"),
        ("docs/a.md", "../configs", f"{HERE}/tree/main/configs"),
        ("docs/a.md", "picture.py", f"{HERE}/blob/main/docs/picture.py"),
        ("docs/a.md", "nowhere.md", "nowhere.md"),
        ("docs/a.md", "../nowhere.py", "../nowhere.py"),
        ("docs/a.md", "#here", "#here"),
        ("docs/a.md", "https://arxiv.org/abs/1903.01038", "https://arxiv.org/abs/1903.01038"),
        ("data/README.md", "../docs/stcb.md", "stcb.md"),
        ("data/README.md", "prepare.py", f"{HERE}/blob/main/data/prepare.py"),
    ],
)
def test_a_link_on_the_site(pages, source, link, there):
    text = "[a]({0}) and [b]({0})\n\n```python\nx[0]({0})\n```\n[c]({0})\n"
    expected = "[a]({1}) and [b]({1})\n\n```python\nx[0]({0})\n```\n[c]({1})\n"
    assert pages.with_addresses(text.format(link), source, HERE) == expected.format(link, there)


def test_docstrings_show_what_they_say():
    griffe = pytest.importorskip("griffe", reason="mkdocstrings is not installed")
    extension = load("docs/docstrings.py").Docstrings()
    found = griffe.load(
        "stpyramid_jax.ops.stcb", search_paths=[ROOT], extensions=griffe.Extensions(extension)
    )
    # Without the extension griffe reads the string as a name, and drops its quotes.
    assert str(found["Sketch.hash"].annotation) == "Int[Array, ' p']"
    assert str(found["count_sketch"].returns) == "Float[Array, '*batch d']"
    text = found["stcb"].docstring.value
    assert r"&lt;stcb(x), stcb(y)> = prod_i &lt;x_i, y_i>" in text
    assert r"B\*H\*W" in text
    assert "```pycon\n>>> sketches = make_sketches" in text
    assert text.rstrip().endswith("(8, 7, 7, 1024)\n```")
    assert "    stcb(x_1, ..., x_m) = irfft( rfft(sketch_1(x_1)) * ..." in found.docstring.value


def test_the_drawn_error_falls_with_the_root_of_d():
    figures = load("docs/figures.py")
    few, many = (figures.estimate_error(2, dim, features=64) for dim in (256, 4096))
    assert 3 < few / many < 5.3


@pytest.mark.slow
def test_the_figures_are_drawn_from_the_code(run, tmp_path):
    """The pictures in docs/figures have the words and numbers that the program writes today."""
    run("docs/figures.py", f"--out={tmp_path}", XLA_FLAGS=QUICKLY)
    drawn, kept = (
        {
            path.name: re.findall(r"<text[^>]*>(.*?)<", path.read_text())
            for path in folder.glob("*.svg")
        }
        for folder in (tmp_path, ROOT / "docs" / "figures")
    )
    assert set(drawn) == {"levels.svg", "sketch.svg", "clip.svg"}
    assert "7 x 7 x 2048" in drawn["levels.svg"]
    assert drawn == kept


class Page(HTMLParser):
    """The anchors of a page, where it leads, and what a browser fetches with it."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.fetched = set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[key] for key in ("id", "name") if key in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon"):
            self.fetched.append(given["href"])
        elif "src" in given:
            self.fetched.append(given["src"])


def faults(site):
    """A line for each link of a site that leads nowhere, and for what is fetched from elsewhere."""
    found = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    lines = []
    for path, page in found.items():
        where = str(path.relative_to(site))
        lines += [
            f"{where} fetches {x}" for x in page.fetched if urlsplit(x).scheme not in ("", "data")
        ]
        for link in (*page.links, *page.fetched):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = there / "index.html" if there.is_dir() else there
            anchors = found[there].anchors if there in found else ()
            if not there.is_file() or (parts.fragment and unquote(parts.fragment) not in anchors):
                lines.append(f"{where} links to {link}")
    return lines


def test_a_dead_link_is_found(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "index.html").write_text('<h1 id="one">1</h1><a href="..#two">2</a>')
    (tmp_path / "index.html").write_text(
        '<a name="two"></a><a href="there/#one">a</a><a href="there/#gone">b</a><a href="gone.png">'
        'c</a><a href="https://arxiv.org">d</a><img src="data:,x"><script src="https://cdn/x.js">'
    )
    assert faults(tmp_path) == [
        "index.html fetches https://cdn/x.js",
        "index.html links to there/#gone",
        "index.html links to gone.png",
    ]


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_every_link_leads_somewhere(tmp_path):
    for name in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"]
    result = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    names = {path.parent.name for path in tmp_path.rglob("index.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"} | {"data"} < names
    assert faults(tmp_path) == []
    index = json.loads((tmp_path / "search" / "search_index.json").read_text())
    assert any("model.sketch_seed" in entry["text"] for entry in index["docs"])
