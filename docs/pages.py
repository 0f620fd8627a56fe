"""What the site makes of the pages: data/README.md becomes one, links to the code addresses.

A hook of mkdocs (mkdocs.yml). In the repository the pages link to files by relative paths; the site
holds the pages and pictures of docs/ only, so that there the links lead to the repository.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
DATA = "data/README.md"
"""The page of the site that is not in docs/, there as `data.md`."""

_FENCES = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
_TARGETS = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")


def on_files(files, config):
    files.append(File.generated(config, "data.md", abs_src_path=str(ROOT / DATA)))
    return files


def on_page_markdown(markdown, page, config, files):
    source = DATA if page.file.src_uri == "data.md" else f"docs/{page.file.src_uri}"
    return with_addresses(markdown, source, config.extra["repository"])


def with_addresses(text: str, source: str, repository: str) -> str:
    """A page's text with the targets of its links as the site has them.

    What is neither in the site nor in the repository stays as it is: mkdocs warns of it.
    """
    parts = _FENCES.split(text)
    parts[::2] = [
        _TARGETS.sub(lambda match: _address(match[1], source, repository), part)
        for part in parts[::2]
    ]
    return "".join(parts)


def targets(text: str, source: str) -> list[str]:
    """Paths in the repository that a page links to."""
    prose = "".join(_FENCES.split(text)[::2])
    return [_path(match[1], source) for match in _TARGETS.finditer(prose)]


def _path(target: str, source: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def _address(target: str, source: str, repository: str) -> str:
    path = _path(target, source)
    if path == DATA:
        return "data.md"
    folder, _, name = path.partition("/")
    if folder == "docs" and name.endswith((".md", ".png", ".jpg", ".svg")):
        return name
    if (ROOT / path).exists():
        return f"{repository}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}"
    return target
