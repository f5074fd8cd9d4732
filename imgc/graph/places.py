"""Where a user changes what a fact is about: the file of an element, or the line of a spec."""

from __future__ import annotations

import os
from collections.abc import Mapping

from imgc.graph.difference import Cause, elements_moved
from imgc.graph.elements import shown
from imgc.graph.plan import Plan, dib_directory
from imgc.spec.settings import VARIABLES

#: Settings that decide variables and options which :data:`VARIABLES` does not name.
_SETTINGS = {
    "IMAGE_NAME": "name",
    "SKIP_BASE": "base.baseline",
    "FS_TYPE": "disk.filesystem",
    "DIB_MOUNTPOINTS": "disk.boot",
    "IMAGE_ELEMENT": "elements",
    "IMAGE_ELEMENT_YAML": "elements",
    "ELEMENTS_PATH": "element_paths",
}

#: Options whose settings have other names.
_OPTIONS = {
    "esp": "disk.boot",
    "firmware": "disk.boot",
    "packages": "packages",
    "install-type": "environment.DIB_DEFAULT_INSTALLTYPE",
}


def owners(plan: Plan) -> Mapping[str, str]:
    """The element that each entry of the hooks tree is from, by its path in the tree."""
    return {entry.dest: entry.element for entry in plan.tree}


def source(plan: Plan, kind: str, name: str, value: str) -> str:
    """The file on this host that the ``script`` or ``file`` fact ``name`` is about; empty when it is not there now.

    ``value`` is the fact's, by whose digest a hook is found that lies under another name than it runs by.
    """
    entry = plan.entries.get(name)
    if entry is not None and entry.kind != "directory":
        return entry.source
    top, _, rest = name.partition("/")
    if top == "elements":
        return _in_elements(plan, *_parted(rest))
    if kind == "script":
        same = (file.source for file in plan.tree if value and file.digest and file.digest in value)
        return next(same, "")
    if top == "lib":
        return _existing(os.path.join(dib_directory(), name))
    return entry.source if entry is not None else ""


def place(plan: Plan, cause: Cause) -> str:
    """The path, or ``file:line:column``, at which ``cause`` can be edited; empty when it is nowhere in particular."""
    if cause.kind in ("script", "file", "new", "gone"):
        return _file_place(plan, cause) or _output_place(plan, cause.name)
    if cause.kind == "env":
        setting = VARIABLES.get(cause.name) or _SETTINGS.get(cause.name, f"environment.{cause.name}")
        if cause.name == "IMAGE_ELEMENT_YAML" and elements_moved(cause.before or "", cause.after or ""):
            setting = "element_paths"
        return str(plan.platform.place(setting))
    if cause.kind == "option":
        return _option_place(plan, cause)
    return ""


def _file_place(plan: Plan, cause: Cause) -> str:
    """Of a file or a hook; where it was, when it is gone."""
    step = cause.kind in ("new", "gone")
    dest = cause.name.partition("/")[2] if step else cause.name
    hooks = {f"{hook.phase}/{hook.name}": hook for hook in plan.predicted}
    if dest in hooks and cause.kind != "file":
        return shown(hooks[dest].path)
    found = source(plan, "script" if step else cause.kind, dest, cause.after or cause.before or "")
    if found:
        return shown(found)
    element = next((one for one in plan.elements if one.name == cause.element), None)
    within = _parted(dest.partition("/")[2])[2] if dest.startswith("elements/") else dest
    return shown(os.path.join(element.path, within)) if element else ""


def _option_place(plan: Plan, cause: Cause) -> str:
    if cause.name in _OPTIONS:
        return str(plan.platform.place(_OPTIONS[cause.name]))
    return _output_place(plan, cause.step) or str(plan.platform.place(f"disk.{cause.name}"))


def _output_place(plan: Plan, step_id: str) -> str:
    """Of the output, or the packages, that a step makes, in the spec; empty for steps that no setting is about."""
    name = step_id.partition("/")[2]
    for index, output in enumerate(plan.platform.outputs):
        if name == output.suffix:
            return str(plan.platform.place(f"outputs[{index}]"))
    return str(plan.platform.place("packages")) if name == "packages" else ""


def _parted(rest: str) -> tuple[str, bool, str]:
    """``x (overridden)/bin/y`` is the element, whether an overridden directory of it is meant, and the path."""
    name, _, path = rest.partition("/")
    return name.removesuffix(" (overridden)"), name.endswith(" (overridden)"), path


def _in_elements(plan: Plan, name: str, overridden: bool, path: str) -> str:
    """A file of an element's own directory."""
    own = next((one.search_path_index for one in plan.elements if one.name == name), -1)
    for index, directory in enumerate(plan.search_paths):
        if (index == own) != overridden:
            found = _existing(os.path.join(directory, name, path))
            if found:
                return found
    return ""


def _existing(path: str) -> str:
    return path if os.path.lexists(path) else ""
