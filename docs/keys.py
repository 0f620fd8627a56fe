"""Every key of a configuration, from the code: where docs/configuration.md says `<!-- keys -->`.

A hook of mkdocs (mkdocs.yml). Types and defaults are those of the dataclasses, meanings their
docstrings', and what the configs set is run, with the comments that stand beside it.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stpyramid_jax.experiment import Experiment, default_config
from stpyramid_jax.models.pyramid import _CHOICES

ROOT = Path(__file__).parents[1]
CONFIGS = {"ucf101": "", "hmdb51": "ucf101", "ucf10": "ucf101", "quickstart": ""}
"""The configs, each with the one whose values, and so comments, it takes where it has none."""


def on_page_markdown(markdown, page, config, files):
    return markdown.replace("<!-- keys -->", reference()) if "<!-- keys -->" in markdown else None


def reference() -> str:
    """All keys as Markdown: a part for each section, in the order of `Experiment`."""
    defaults, settings = default_config().to_dict(), _settings()
    sections = typing.get_type_hints(Experiment)
    _, meanings = read_docstring(Experiment)
    parts = ["## The run"]
    for name, section in sections.items():
        if not dataclasses.is_dataclass(section):
            parts.append(_entry(name, section, defaults[name], meanings[name], {}))
            continue
        about, meanings = read_docstring(section)
        types = typing.get_type_hints(section)
        parts += [f"## {name}", about]
        for key in (key for key in types if key in defaults[name]):
            full, default = f"{name}.{key}", defaults[name][key]
            parts.append(_entry(full, types[key], default, meanings[key], settings.get(full, {})))
    return "\n\n".join(parts)


def read_docstring(owner: Any) -> tuple[str, dict[str, str]]:
    """What a section is, and the meaning of each of its fields.

    Raises:
      ValueError: a field of which the docstring has none, by name.
    """
    about, _, attributes = (inspect.getdoc(owner) or "").partition("\nAttributes:\n")
    meanings: dict[str, str] = {}
    for entry in re.split(r"\n(?=  \w)", f"\n{attributes}")[1:]:
        names, _, meaning = " ".join(entry.split()).partition(": ")
        meanings |= dict.fromkeys(names.split(", "), meaning)
    if missing := [f.name for f in dataclasses.fields(owner) if f.name not in meanings]:
        raise ValueError(
            f'{owner.__name__}: its docstring tells under "Attributes:" nothing of '
            f"{', '.join(missing)}"
        )
    return about.split("\n\n")[0].strip(), meanings


def read_comments(path: Path) -> dict[str, str]:
    """By key what stands beside or above its value in `config.SECTION.update(key=value)`."""
    lines = path.read_text().splitlines()
    comments: dict[str, str] = {}
    for call in ast.walk(ast.parse(path.read_text())):
        match call:
            case ast.Call(
                func=ast.Attribute(value=ast.Attribute(attr=section), attr="update"),
                keywords=keywords,
            ):
                for keyword in keywords:
                    comment = lines[(keyword.value.end_lineno or 1) - 1].partition("  # ")[2]
                    comments.setdefault(
                        f"{section}.{keyword.arg}", comment or _above(lines, keyword)
                    )
    return comments


def _above(lines: list[str], keyword: ast.keyword) -> str:
    """The comment on the lines before a value that has a line of its own."""
    if not lines[keyword.lineno - 1].lstrip().startswith(f"{keyword.arg}="):
        return ""
    comment: list[str] = []
    for line in reversed(lines[: keyword.lineno - 1]):
        if not line.lstrip().startswith("# "):
            break
        comment.insert(0, line.strip().removeprefix("# "))
    return " ".join(comment)


def _settings() -> Mapping[str, Mapping[str, list[str]]]:
    """By key, what the configs set it to (with the comment) and which of them do.

    Defaults that no comment explains are left out.
    """
    sys.path.insert(0, str(ROOT))
    found: dict[str, dict[str, list[str]]] = {}
    said: dict[tuple[str, str, Any], str] = {}  # by config, key and value
    defaults = _flat(default_config().to_dict())
    for name, base in CONFIGS.items():
        comments = read_comments(ROOT / "configs" / f"{name}.py")
        values = importlib.import_module(f"configs.{name}").get_config().to_dict()
        for key, value in _flat(values).items():
            comment = comments.get(key) or said.get((base, key, value), "")
            said[name, key, value] = comment
            if comment or value != defaults[key]:
                shown = f"`{_literal(value)}`" + f" ({comment})" * bool(comment)
                found.setdefault(key, {}).setdefault(shown, []).append(name)
    return found


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    sections = {name: part for name, part in tree.items() if isinstance(part, dict)}
    return {
        f"{name}.{key}": value for name, part in sections.items() for key, value in part.items()
    }


def _entry(
    key: str, kind: Any, default: Any, meaning: str, settings: Mapping[str, list[str]]
) -> str:
    """A key as an entry of a definition list."""
    type_name = str(kind) if typing.get_args(kind) else kind.__name__
    kept = "must be set" if default is None else f"`{_literal(default)}`"
    choices = _CHOICES.get(key.removeprefix("model.")) if key.startswith("model.") else None
    lines = [f":   {meaning[:1].upper()}{meaning[1:]}"]
    if choices:
        lines.append("    One of " + ", ".join(f"`{choice}`" for choice in choices) + ".")
    if settings:
        values = (f"{shown} in {', '.join(names)}" for shown, names in settings.items())
        lines.append(f"    Configs: {'; '.join(values)}.")
    head = f'<a id="{key}"></a>**`{key}`** {type_name}, {kept}'
    return head + "\n\n" + "\n\n".join(lines)


def _literal(value: Any) -> str:
    if isinstance(value, tuple):
        items = ", ".join(map(_literal, value))
        return f"({items},)" if len(value) == 1 else f"({items})"
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:.4g}" if isinstance(value, float) else repr(value)
