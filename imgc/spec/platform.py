"""The last step of loading: settings that contradict each other, and the frozen :class:`Platform`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping as MappingType
from pathlib import Path
from types import MappingProxyType
from typing import Any

from imgc.errors import Collector, ImgcError, Place
from imgc.spec.model import (
    Base,
    BindepCache,
    CachedFile,
    Caches,
    Disk,
    FileCache,
    GitCache,
    Initramfs,
    Output,
    Platform,
    User,
)
from imgc.spec.settings import LABEL_LENGTH, VARIABLES
from imgc.spec.validate import INVALID
from imgc.spec.words import show

_TAR_SUFFIX = {"zstd": "tar.zst", "gzip": "tar.gz", "none": "tar"}


def build(
    values: Any,
    places: MappingType[str, Place],
    file: str,
    directories: MappingType[str, Path],
    problems: Collector,
) -> Platform | None:
    """The platform of ``values`` (nested dicts as :class:`~imgc.spec.validate.Validator` gives them).

    Adds a problem for each contradiction among the values that are valid.  None when some are not.
    ``directories`` is the directory of each file that ``places`` names, to which element paths are relative.
    """
    if values is INVALID:
        return None
    where = _Where(places, file)
    for problem in _contradictions(values, where):
        problems.add(problem)
    if not _complete(values):
        return None
    kept = dict(places)
    elements = _distinct(values["elements"], "elements", kept)
    packages = _distinct(values["packages"], "packages", kept)
    paths = [
        os.path.abspath(directories[where(f"element_paths[{i}]").file] / path)
        for i, path in enumerate(values["element_paths"])
    ]
    return Platform(
        name=values["name"],
        description=values["description"],
        base=_base(values["base"], where, directories),
        elements=elements,
        element_paths=_distinct(paths, "element_paths", kept),
        environment=tuple(sorted(values["environment"].items())),
        packages=packages,
        initramfs=Initramfs(**values["initramfs"]),
        disk=Disk(**values["disk"]),
        outputs=tuple(_output(each) for each in values["outputs"]),
        file=file,
        users=tuple(_user(each) for each in values["users"]),
        caches=_caches(values["caches"], where, directories),
        places=MappingProxyType(kept),
    )


def _base(values: dict[str, Any], where: _Where, directories: MappingType[str, Path]) -> Base:
    image = values["image"]
    return Base(**{**values, "image": image and _path(image, "base.image", where, directories)})


def _path(text: str, path: str, where: _Where, directories: MappingType[str, Path]) -> str:
    """A URL as it is; a path, from relative to the file that says it, as an absolute one."""
    return text if "://" in text else os.path.abspath(directories[where(path).file] / text)


def _user(values: dict[str, Any]) -> User:
    home = values["home"] or ("/root" if values["name"] == "root" else f"/home/{values['name']}")
    return User(**{**values, "home": home})


def _caches(values: dict[str, Any], where: _Where, directories: MappingType[str, Path]) -> Caches:
    git, bindep, files = values["git"], values["bindep"], values["files"]
    projects = tuple(
        _path(one, f"caches.git.projects[{i}]", where, directories) for i, one in enumerate(git["projects"])
    )
    fallback = bindep["fallback"] and _path(bindep["fallback"], "caches.bindep.fallback", where, directories)
    listed = tuple(CachedFile(**_texts(each)) for each in files["list"])
    return Caches(
        GitCache(**{**_texts(git), "projects": projects}),
        BindepCache(**{**_texts(bindep), "fallback": fallback or ""}),
        FileCache(listed, files["directory"], files["devstack"] or "", files["strict"]),
    )


def _texts(values: dict[str, Any]) -> dict[str, Any]:
    """The same values, with what was left out as an empty string."""
    return {key: "" if value is None else value for key, value in values.items()}


class _Where:
    """The place of a value by its path, as :meth:`Platform.place` finds it."""

    def __init__(self, places: MappingType[str, Place], file: str) -> None:
        self._places = places
        self._file = file

    def __call__(self, path: str) -> Place:
        while path and path not in self._places:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self._places.get(path, Place(self._file))


def _complete(values: Any) -> bool:
    """Whether no value, at any depth, is missing or invalid."""
    if isinstance(values, dict):
        return all(_complete(value) for value in values.values())
    if isinstance(values, tuple):
        return all(_complete(value) for value in values)
    return values is not INVALID


def _distinct(items: list[str] | tuple[str, ...], path: str, places: dict[str, Place]) -> tuple[str, ...]:
    """``items`` without repeats; the places of those that stay follow them to their new index."""
    found = [places.pop(f"{path}[{i}]", None) for i in range(len(items))]
    first = {item: found[i] for i, item in reversed(list(enumerate(items)))}
    kept = tuple(dict.fromkeys(items))
    for i, item in enumerate(kept):
        place = first[item]
        if place is not None:
            places[f"{path}[{i}]"] = place
    return kept


def _output(values: dict[str, str]) -> Output:
    options = tuple((key, value) for key, value in values.items() if key != "format")
    return Output(values["format"], _suffix(values), options)


def _suffix(values: dict[str, str]) -> str:
    return _TAR_SUFFIX[values["compression"]] if values["format"] == "tar" else values["format"]


def _contradictions(values: dict[str, Any], where: _Where) -> list[ImgcError]:
    """Every pair of settings that cannot both be."""
    found = []
    for check in (_label, _boot, _environment, _outputs, _image, _branches, _users):
        found.extend(check(values, where))
    return found


def _valid(section: Any, *keys: str) -> tuple[Any, ...] | None:
    """The values of ``keys``, or None when the section or one of them has a problem already."""
    if not isinstance(section, dict):
        return None
    found = tuple(section.get(key, INVALID) for key in keys)
    return None if any(value is INVALID or value is None for value in found) else found


def _label(values: dict[str, Any], where: _Where) -> list[ImgcError]:
    wanted = _valid(values["disk"], "filesystem", "label")
    if wanted is None:
        return []
    filesystem, label = wanted
    most = LABEL_LENGTH[filesystem]
    if len(label) <= most:
        return []
    said = f"`disk.label` has {len(label)} characters; a label on {filesystem} has at most {most}."
    return [ImgcError("E115", said, place=where("disk.label"))]


def _boot(values: dict[str, Any], where: _Where) -> list[ImgcError]:
    boot, arch = _valid(values["disk"], "boot"), _valid(values["base"], "arch")
    if boot is None or arch != ("arm64",) or boot == ("efi",):
        return []
    said = f"`disk.boot` is `{boot[0]}`, but an arm64 machine has no BIOS."
    return [ImgcError("E115", said, hint="Write `efi`, or leave it out.", place=where("disk.boot"))]


def _environment(values: dict[str, Any], where: _Where) -> list[ImgcError]:
    """A variable that a setting decides cannot be decided a second time."""
    names = values["environment"] if isinstance(values["environment"], dict) else {}
    return [
        ImgcError(
            "E115",
            f"The variable {show(name)} is decided by the setting `{VARIABLES[name]}`.",
            hint=f"Set `{VARIABLES[name]}` instead.",
            place=where(f"environment.{name}"),
        )
        for name in names
        if name in VARIABLES
    ]


def _image(values: dict[str, Any], where: _Where) -> list[ImgcError]:
    """A base is made from packages or from an image, and only the latter has one."""
    base = values["base"]
    if not isinstance(base, dict) or base["kind"] is INVALID or base["image"] is INVALID:
        return []
    if base["kind"] == "minimal":
        said = "`base.{}` is for a base of the kind `cloud-image` or `tree`; this one is `minimal`."
        named = (key for key in ("image", "sha256") if base[key] is not None)
        return [ImgcError("E115", said.format(key), place=where(f"base.{key}")) for key in named]
    if base["image"] is None:
        said = f"A base of the kind `{base['kind']}` wants `base.image`."
        return [ImgcError("E106", said, place=where("base.kind"))]
    return []


def _branches(values: dict[str, Any], where: _Where) -> list[ImgcError]:
    wanted = _valid(values["caches"].get("git") if isinstance(values["caches"], dict) else None, "branches")
    if wanted is None:
        return []
    try:
        re.compile(wanted[0])
    except re.error as error:
        said = f"`caches.git.branches` is not a regular expression: {error}."
        return [ImgcError("E109", said, place=where("caches.git.branches"))]
    return []


def _users(values: dict[str, Any], where: _Where) -> list[ImgcError]:
    found = []
    first: dict[str, Place] = {}
    for i, user in enumerate(values["users"] if isinstance(values["users"], tuple) else ()):
        if user["name"] is INVALID:
            continue
        place = where(f"users[{i}].name")
        if user["name"] in first:
            said = f"The user {show(user['name'])} is listed twice; the first is at {first[user['name']]}."
            found.append(ImgcError("E115", said, hint="`!replace` drops inherited users.", place=place))
        first.setdefault(user["name"], place)
        from imgc.spec.public_keys import check

        for number, key in enumerate(user["keys"] if isinstance(user["keys"], tuple) else ()):
            wrong = check(key)
            if wrong:
                place = where(f"users[{i}].keys[{number}]")
                found.append(
                    ImgcError("E118", f"A key of {show(user['name'])} cannot be used: {wrong}.", place=place)
                )
    return found


def _outputs(values: dict[str, Any], where: _Where) -> list[ImgcError]:
    found = []
    first: dict[str, Place] = {}
    for i, each in enumerate(values["outputs"] if isinstance(values["outputs"], tuple) else ()):
        path = f"outputs[{i}]"
        if each.get("compat") == "0.10" and each["compression"] == "zstd":
            said = "qcow2 with compat 0.10 cannot be compressed with zstd."
            hint = "Add `compression: zlib`, or leave `compat` at 1.1."
            found.append(ImgcError("E115", said, hint=hint, place=where(f"{path}.compat")))
        suffix = _suffix(each)
        if suffix in first:
            said = f"Two outputs would have the suffix `.{suffix}`; the first is at {first[suffix]}."
            hint = "Remove one; `!replace` drops inherited outputs."
            found.append(ImgcError("E115", said, hint=hint, place=where(path)))
        first.setdefault(suffix, where(path))
    return found
