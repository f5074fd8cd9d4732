"""Pins the caches of platforms, and brings what is pinned to where a build finds it.

What the package cache and the file cache hold follows from the git trees, so those are pinned first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgc.caches.model import Pinned
from imgc.caches.whole import write_whole
from imgc.errors import Collector, ImgcError
from imgc.lock import Pin, Pins, Source

if TYPE_CHECKING:
    from imgc.caches.image_list import RunScript

#: The kinds of sources that are pinned here, each after those it follows from.
KINDS = ("git-cache", "bindep", "file-cache")

#: Told what is being done, in a line.
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """A platform, what it takes from outside, and the pins that are known for that."""

    platform: str
    sources: tuple[Source, ...]
    known: Pins


def pin_caches(
    wanted: Iterable[Wanted], *, cache: Path, refresh: bool, offline: bool, run_script: RunScript, tell: Tell
) -> dict[str, dict[tuple[str, str], Pinned]]:
    """The pins of the caches of each platform by name, and what was found on the way.

    Known pins are kept unless ``refresh``, or what they follow from is pinned anew.  What several platforms have is
    pinned once.  Raises E612 when something is missing and ``offline``, and in strict caches what went wrong.
    """
    work = _Work(cache, refresh, offline, run_script, tell)
    problems = Collector()
    found = {}
    for one in wanted:
        try:
            found[one.platform] = work.platform(one)
        except ImgcError as problem:
            if problem.code == "E307":
                raise
            problems.add(problem)
    problems.check()
    return found


class _Work:
    """One round of pinning; remembers what it has done."""

    def __init__(self, cache: Path, refresh: bool, offline: bool, run_script: RunScript, tell: Tell) -> None:
        self._cache = cache
        self._refresh = refresh and not offline
        self._offline = offline
        self._run_script = run_script
        self._tell = tell
        self._done: dict[tuple[Source, Pin | None], Pinned] = {}

    def platform(self, wanted: Wanted) -> dict[tuple[str, str], Pinned]:
        found: dict[tuple[str, str], Pinned] = {}
        git: Pin | None = None
        trees: Source | None = None
        moved = False
        for kind in KINDS:
            for source in (one for one in wanted.sources if one.kind == kind):
                before = wanted.known.get(source.id)
                if before and before.is_for(source) and not self._refresh and not moved:
                    found[source.id] = Pinned(before, None)
                else:
                    if trees and git and not moved:
                        # What follows from trees that were pinned elsewhere is read from them.
                        self._bring(trees, git)
                    found[source.id] = self._pinned(source, before, git)
                    moved = moved or kind == "git-cache"
                if kind == "git-cache":
                    trees, git = source, found[source.id].pin
        return found

    def _bring(self, trees: Source, git: Pin) -> None:
        from imgc.caches.git_fetch import fetch_git_cache

        fetch_git_cache(trees, git, self._cache, offline=self._offline, tell=self._tell)

    def _pinned(self, source: Source, before: Pin | None, git: Pin | None) -> Pinned:
        if self._offline and source.kind != "bindep":
            from imgc.sources.pinning import not_pinned

            raise not_pinned(source)
        follows = git if source.kind != "git-cache" else None
        if (source, follows) not in self._done:
            self._done[source, follows] = self._pin(source, before, git)
        return self._done[source, follows]

    def _pin(self, source: Source, before: Pin | None, git: Pin | None) -> Pinned:
        if source.kind == "git-cache":
            from imgc.caches.git_cache import pin_git_cache

            return pin_git_cache(source, before, self._cache, tell=self._tell)
        if source.kind == "bindep":
            from imgc.caches.bindep_cache import pin_bindep

            return pin_bindep(source, git, self._cache, tell=self._tell)
        from imgc.caches.file_cache import pin_file_cache

        return pin_file_cache(
            source,
            before,
            git,
            self._cache,
            run_script=self._run_script,
            tell=self._tell,
            places=source.places,
        )


def remember(platform: str, pinned: Iterable[Pinned], cache: Path) -> None:
    """Keep what was found while the caches of a platform were pinned, for reports of what is built from that."""
    told = {
        one.pin.kind: {"pin": _digest(one.pin), "findings": [str(finding) for finding in one.findings]}
        for one in pinned
        if one.findings is not None
    }
    path = _findings_file(platform, cache)
    kept = {**_remembered(path), **told}
    write_whole(path, json.dumps(kept, indent=1, sort_keys=True).encode())


def _findings_file(platform: str, cache: Path) -> Path:
    return cache / "caches" / "findings" / f"{platform}.json"


def _remembered(path: Path) -> dict[str, dict[str, Any]]:
    try:
        found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _digest(pin: Pin) -> str:
    return hashlib.sha256(repr(pin.identity).encode()).hexdigest()


def offers(
    sources: Sequence[Source], pins: Pins, cache: Path, *, offline: bool, tell: Tell
) -> dict[str, Path]:
    """Directories that hooks are offered for the caches of a platform, by name.  Raises what making them raises."""
    from imgc.caches.bindep_cache import fetch_bindep, report_of
    from imgc.caches.git_fetch import fetch_git_cache

    pinned = {source.kind: (source, pins[source.id]) for source in sources if source.id in pins}
    if "bindep" not in pinned:
        return {}
    git = None
    if "git-cache" in pinned:
        trees, git = pinned["git-cache"]
        if not report_of(cache, pinned["bindep"][1]).is_file():
            fetch_git_cache(trees, git, cache, offline=offline, tell=tell)
    return {"cache-bindep": fetch_bindep(*pinned["bindep"], git, cache)}


def report(
    platform: str, sources: Sequence[Source], pins: Pins, cache: Path, warnings: Sequence[str]
) -> Mapping[str, object] | None:
    """What is in the caches of a platform, for people and programs; None when it has none.

    ``git`` has each project's origin and heads, ``files`` each file's digest and URL, ``packages`` what
    :func:`imgc.caches.bindep_cache.pin_bindep` wrote about who asked for what, ``findings`` what did not go as asked,
    the ``warnings`` of hooks last.
    """
    from imgc.caches.bindep_cache import report_of
    from imgc.caches.model import trees_of

    told: dict[str, object] = {}
    findings: list[str] = []
    remembered = _remembered(_findings_file(platform, cache))
    for source in sources:
        pin = pins.get(source.id)
        if pin is None or source.kind not in KINDS:
            continue
        of_kind = remembered.get(source.kind, {})
        if of_kind.get("pin") == _digest(pin):
            findings += of_kind["findings"]
        if source.kind == "git-cache":
            told["git"] = [
                {"project": one.name, "origin": one.origin, "heads": dict(one.heads)} for one in trees_of(pin)
            ]
        elif source.kind == "file-cache":
            values = ((name, *value.split(" ", 1)) for name, value in pin.identity)
            told["files"] = [
                {"name": name, "sha256": digest.removeprefix("sha256:"), "url": url}
                for name, digest, url in values
            ]
        else:
            path = report_of(cache, pin)
            told["packages"] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {**told, "findings": [*findings, *warnings]} if told else None
