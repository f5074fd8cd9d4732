"""What the declared settings look like to an editor (JSON Schema) and to a reader (the tables in docs/spec.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from imgc.spec.settings import OUTPUT, SPEC, VERSION
from imgc.spec.types import ListOf, Section, Setting

BEGIN = "<!-- reference: begin (generated from imgc/spec/settings.py) -->"
END = "<!-- reference: end -->"


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a spec file, platform or part.

    It accepts exactly the keys and types that imgc accepts.  What depends on several settings or files at once
    (contradictions, what a platform must say in the end) is beyond it, and so is the tag ``!replace``.
    """
    schema = SPEC.schema()
    schema["properties"]["schema"]["const"] = VERSION
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "imgc platform spec",
        **schema,
        "required": [setting.key for setting in SPEC.settings if setting.required],
    }


def reference_markdown() -> str:
    """The reference of all settings, in Markdown."""
    parts = ["### Top level\n", _table(SPEC.settings, "")]
    for setting in SPEC.settings:
        parts += _sections(setting, setting.key)
    for each in OUTPUT.formats:
        parts += [f"### Output format `{each.name}`\n", f"{each.doc}\n"]
        parts += [_table(each.options, "")] if each.options else ["It has no options.\n"]
    return "\n".join(parts)


def _sections(setting: Setting, path: str) -> Iterator[str]:
    """The parts about a map of settings, or a list of such maps, and about what is inside."""
    kind = setting.type
    if isinstance(kind, ListOf) and isinstance(kind.item, Section):
        kind, path = kind.item, f"{path}[]"
    if isinstance(kind, Section):
        yield from (f"### `{path}`\n", f"{setting.doc}\n", _table(kind.settings, f"{path}."))
        for inner in kind.settings:
            yield from _sections(inner, f"{path}.{inner.key}")


def with_reference(page: str) -> str:
    """A Markdown page with the current reference between its two marks.  ValueError when it lacks them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks {BEGIN if not begin else END}")
    return f"{before}{BEGIN}\n\n{reference_markdown()}\n{END}{after}"


def _table(settings: tuple[Setting, ...], prefix: str) -> str:
    lines = ["| Setting | Value | Default | Meaning |", "|---|---|---|---|"]
    for setting in settings:
        value = setting.type.words().replace("|", "\\|")
        meaning = setting.doc
        if setting.variable:
            meaning += f" Elements see it as `{setting.variable}`."
        lines.append(f"| `{prefix}{setting.key}` | {value} | {_default(setting)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(setting: Setting) -> str:
    if setting.required:
        return "required"
    if isinstance(setting.type, Section):
        return "see below"
    if setting.usually:
        return setting.usually
    return f"`{setting.default}`" if setting.default else "none"
