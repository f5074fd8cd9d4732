"""Checks of what elements declare about themselves: package-installs and pkg-map are read before a build needs them.

The stock driver reads these files in the middle of a build, and passes over a misspelt phase without a word.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from imgc.errors import Collector, ImgcError, Place
from imgc.graph.elements import Element, shown

_PACKAGE_PHASES = ("pre-install.d", "install.d", "post-install.d")
_PACKAGE_KEYS = (
    "phase",
    "uninstall",
    "build-only",
    "installtype",
    "arch",
    "not-arch",
    "dib_python_version",
    "when",
)


def check_descriptions(elements: Sequence[Element], problems: Collector) -> list[str]:
    """Add E209 for every declaration that cannot be read; return warnings about what they say."""
    warnings: list[str] = []
    for element in elements:
        for name in ("package-installs.yaml", "package-installs.json"):
            packages = _read(element, name, _yaml, problems)
            warnings.extend(_package_warnings(f"{name} of element `{element.name}`", packages))
        _read(element, "pkg-map", _json, problems)
    return warnings


def _read(
    element: Element, name: str, parse: Callable[[str, str], Any], problems: Collector
) -> dict[Any, Any]:
    path = os.path.join(element.path, name)
    try:
        with open(path, encoding="utf-8") as file:
            found = parse(file.read(), path)
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise ImgcError("E209", "it is not a mapping", place=Place(shown(path)))
        return found
    except FileNotFoundError:
        return {}
    except ImgcError as error:
        why, place = error.message, error.place
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        why, place = str(error) or type(error).__name__, Place(shown(path))
    problems.add(ImgcError("E209", f"{name} of element `{element.name}` cannot be read: {why}.", place=place))
    return {}


def _json(text: str, path: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        if not isinstance(error, json.JSONDecodeError):
            raise ImgcError("E209", str(error), place=Place(shown(path))) from error
        place = Place(shown(path), error.lineno, error.colno)
        raise ImgcError("E209", error.msg[:1].lower() + error.msg[1:], place=place) from error


def _yaml(text: str, path: str) -> Any:
    import yaml

    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = Place(shown(path), mark.line + 1, mark.column + 1) if mark else Place(shown(path))
        raise ImgcError("E209", str(getattr(error, "problem", None) or error), place=place) from error


def _package_warnings(what: str, packages: dict[Any, Any]) -> Iterator[str]:
    """What package-installs would pass over in silence."""
    for package, parameters in packages.items():
        for parameter in parameters if isinstance(parameters, list) else [parameters or {}]:
            if not isinstance(parameter, dict):
                yield f"{what}: `{package}` has {parameter!r} where settings are expected."
                continue
            for key in parameter:
                if key not in _PACKAGE_KEYS:
                    yield f"{what}: `{package}` has the unknown setting `{key}`."
            phase = parameter.get("phase", "install.d")
            if phase not in _PACKAGE_PHASES:
                yield f"{what}: `{package}` has phase `{phase}`, in which no packages are installed."
