"""What a plan's caches and its base take from outside, and the side trees that they bring.

A side tree depends on no platform: it is made once and laid over the tree of every platform that has the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from imgc.errors import Collector, ImgcError, Place
from imgc.graph.elements import shown
from imgc.graph.plan import Plan
from imgc.graph.step import Fact
from imgc.graph.tree import Hook
from imgc.lock import Pins, Source

#: The variable that tells hooks the directory with what imgc offers them, each thing by its name.
OFFERS_VARIABLE = "IMGC_OFFERS"

#: What is offered under which name, by the kind of source.
OFFERS = {"bindep": "cache-bindep", "base": "base"}

#: The steps that make side trees, by the kind of source that they are made from.
SIDES = {"git-cache": "git-trees", "file-cache": "cached-files"}

#: Where hooks name offers without reading them.
_COMMENT = re.compile(r"(?m)^\s*#.*$")


def sources_of_caches(plan: Plan, problems: Collector) -> Iterator[Source]:
    """The base image and the caches of a plan, as sources.  Adds E651, E656 and E665 for files that are not there."""
    platform = plan.platform
    elements = {element.name for element in plan.elements}
    if platform.base.image:
        yield _base(plan, problems)
    git = platform.caches.git
    if "cache-git" in elements and git.projects:
        yield _git(plan, problems)
    if "cache-bindep" in elements:
        yield _bindep(plan, problems)
    if "cache-files" in elements:
        yield _files(plan)


def reads_offer(hook: Hook, source: Source) -> bool:
    """Whether the text of ``hook`` names what is offered of ``source``, beside the variable, on one line."""
    with open(hook.path, encoding="utf-8", errors="replace") as file:
        text = _COMMENT.sub("", file.read())
    return bool(re.search(rf"{OFFERS_VARIABLE}\b.*\b{OFFERS[source.kind]}\b", text))


def side_facts(source: Source, pins: Pins) -> tuple[Fact, ...]:
    """What decides what is in a side tree: where it lies, and one pin for each project or file."""
    pin = pins.get(source.id)
    directory = Fact("option", "directory", source.get("directory"))
    if pin is None:
        return (directory, Fact("pin", f"{source.kind} {source.name}", "none"))
    return (directory, *(Fact("pin", f"{source.kind} {name}", value) for name, value in pin.identity))


def sides(sources: Sequence[Source]) -> tuple[Source, ...]:
    """The sources that become side trees."""
    return tuple(source for source in sources if source.kind in SIDES)


def _base(plan: Plan, problems: Collector) -> Source:
    base, place = plan.platform.base, plan.platform.place("base.image")
    location = base.image or ""
    if "://" not in location and not Path(location).exists():
        said = f"There is no {shown(location)} to make a {base.kind} base of."
        problems.add(ImgcError("E665", said, place=place))
    detail = [("kind", base.kind), ("stamp", _stamp(location))]
    if base.sha256:
        detail.append(("sha256", base.sha256))
    return Source("base", "base", location, tuple(detail), place)


def _stamp(location: str) -> str:
    """What tells without reading it that a base on this host is no longer what it was; empty for a URL."""
    if "://" in location:
        return ""
    digest = hashlib.sha256()
    path = Path(location)
    try:
        for one in [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]:
            status = one.lstat()
            told = (os.path.relpath(one, path), status.st_size, status.st_mtime_ns, status.st_mode)
            digest.update(f"{told}\n".encode("utf-8", "surrogateescape"))
    except OSError:
        return "none"
    return digest.hexdigest()[:16]


def _git(plan: Plan, problems: Collector) -> Source:
    git = plan.platform.caches.git
    digests = []
    for number, one in enumerate(git.projects):
        place = plan.platform.place(f"caches.git.projects[{number}]")
        digests.append(one if "://" in one else _digest(one, "E651", place, problems))
    detail = {
        "projects": "\n".join(git.projects),
        "projects_sha256": "\n".join(digests),
        "base": git.base,
        "mirror": git.mirror,
        "directory": git.directory,
        "branches": git.branches,
        "connections": str(git.connections),
        "strict": "yes" if git.strict else "",
    }
    place = plan.platform.place("caches.git.projects")
    return Source("git-cache", "git", git.mirror or git.base, tuple(detail.items()), place)


def _bindep(plan: Plan, problems: Collector) -> Source:
    base, bindep = plan.platform.base, plan.platform.caches.bindep
    place = plan.platform.place("caches.bindep.fallback")
    digest = _digest(bindep.fallback, "E656", place, problems) if bindep.fallback else ""
    detail = {
        "fallback": bindep.fallback,
        "fallback_sha256": digest,
        "profiles": " ".join(bindep.profiles),
        "devstack": bindep.devstack,
        "distro": base.distro,
        "release": base.release,
        "arch": base.arch,
    }
    name = f"{base.distro} {base.release} {base.arch}"
    return Source("bindep", name, "", tuple(detail.items()), place)


def _files(plan: Plan) -> Source:
    files = plan.platform.caches.files
    listed = [[one.url, one.sha256, one.name] for one in files.files]
    detail = {
        "files": json.dumps(listed),
        "directory": files.directory,
        "devstack": files.devstack,
        "strict": "yes" if files.strict else "",
    }
    place = plan.platform.place
    places = tuple(place(f"caches.files.list[{number}].url") for number in range(len(listed)))
    return Source("file-cache", "files", "", tuple(detail.items()), place("caches.files.list"), places)


def _digest(path: str, code: str, place: Place, problems: Collector) -> str:
    """The digest of a file that a spec names; a problem when it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        said = f"{shown(path)} cannot be read: {error.strerror}."
        problems.add(ImgcError(code, said, place=place))
        return ""
