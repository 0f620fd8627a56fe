"""What mkdocstrings makes of our docstrings: shapes and signs stay text, examples become code.

An extension of griffe, which reads the code for mkdocstrings. Griffe takes every string in an
annotation for a type, and so the shape in `Int[Array, "p"]` for a class `p`. What Markdown would
take for its own is told otherwise: `<x, y>` (a tag), `B*H*W` (emphasis), `>>>` (a quotation).
"""

import ast
import re

import griffe

_CODE = re.compile(r"(`[^`]*`)")


class Docstrings(griffe.Extension):
    def on_instance(self, *, obj, **kwargs):
        if obj.docstring:
            paragraphs = obj.docstring.value.split("\n\n")
            obj.docstring.value = "\n\n".join(map(_markdown, paragraphs))

    def on_function_instance(self, *, node, func, **kwargs):
        if not isinstance(node, ast.FunctionDef):
            return
        arguments = node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            func.parameters[argument.arg].annotation = _annotation(argument.annotation, func)
        func.returns = _annotation(node.returns, func)

    def on_attribute_instance(self, *, node, attr, **kwargs):
        if isinstance(node, ast.AnnAssign):
            attr.annotation = _annotation(node.annotation, attr)


def _markdown(paragraph: str) -> str:
    """A paragraph of a docstring as Markdown that shows the same."""
    lines = paragraph.split("\n")
    if all(line.startswith("    ") for line in lines):
        return paragraph  # code already
    if lines[0].startswith(">>> "):
        return f"```pycon\n{paragraph}\n```"
    parts = _CODE.split(paragraph)
    parts[::2] = [part.replace("<", "&lt;").replace("*", r"\*") for part in parts[::2]]
    return "".join(parts)


def _annotation(node: ast.expr | None, owner: griffe.Object):
    assert owner.parent is not None  # functions and attributes have one
    return griffe.get_expression(node, owner.parent, parse_strings=False)
