"""``python -m imgc.caches git``: the git cache for an image that another driver builds."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from imgc.caches.git_cache import make_git_tree, pin_git_cache
from imgc.caches.model import trees_of
from imgc.errors import ImgcError, Place
from imgc.lock import Source

#: What places call the settings: the element reads them from variables of this name.
_SETTINGS = "DIB_CACHE_GIT"


def run(arguments: Sequence[str]) -> int:
    """Bring the mirrors of all projects up to date, and make their trees below ``--into`` if given; the exit status.

    A repository that cannot be refreshed is a warning, unless ``--strict``.
    """
    parser = argparse.ArgumentParser(prog="python -m imgc.caches git", description=run.__doc__)
    add = parser.add_argument
    add(
        "--projects",
        action="append",
        required=True,
        metavar="LIST",
        help="a list of projects: a file or a URL",
    )
    add("--base", default="", metavar="URL", help="what a project's name is appended to for its upstream URL")
    add("--mirror", default="", metavar="URL", help="the same for where it is fetched from (the base)")
    add("--directory", default="/opt/git", help="where the trees are in the image (%(default)s)")
    add("--branches", default=".*", metavar="REGEX", help="the branches that trees have, by whole name (all)")
    add("--connections", type=int, default=8, metavar="N", help="at most so many for a host (%(default)s)")
    add("--strict", action="store_true", help="fail when a repository cannot be refreshed")
    add("--offline", action="store_true", help="use the mirrors as they are")
    add("--cache", type=Path, required=True, metavar="DIR", help="where mirrors are kept")
    add("--into", type=Path, metavar="DIR", help="a directory; the trees are made in its mnt/ (only mirrors)")
    options = parser.parse_args(arguments)
    source = _source(options)
    cache = options.cache.absolute()
    pinned = pin_git_cache(source, None, cache, tell=_say, offline=options.offline)
    for finding in pinned.findings or ():
        print(f"imgc: warning: {finding}", flush=True)
    if options.into is None:
        return 0
    into = options.into.absolute()
    facts = make_git_tree(source, trees_of(pinned.pin), into, cache, offline=options.offline, on_line=_say)
    _say(f"{facts['projects']} projects, {facts['made']} of them made anew")
    return 0


def _source(options: argparse.Namespace) -> Source:
    """The settings, checked as those of a spec are."""
    try:
        re.compile(options.branches)
    except re.error as error:
        said = f"The branches are not a regular expression: {error}."
        raise ImgcError("E109", said, place=Place(f"{_SETTINGS}_BRANCHES")) from None
    if not re.fullmatch(r"(/[A-Za-z0-9._+-]*[A-Za-z0-9_+-])+", options.directory):
        said = f"`{options.directory}` is no absolute path of a directory."
        raise ImgcError("E109", said, place=Place(f"{_SETTINGS}_DIRECTORY"))
    if options.connections < 1:
        raise ImgcError("E109", "There has to be one connection at least.", place=Place("--connections"))
    listed = [one if "://" in one else str(Path(one).absolute()) for one in options.projects]
    detail = {
        "projects": "\n".join(listed),
        "base": options.base,
        "mirror": options.mirror,
        "directory": options.directory,
        "branches": options.branches,
        "connections": str(options.connections),
        "strict": "yes" if options.strict else "",
    }
    return Source("git-cache", "git", "", tuple(detail.items()), Place(f"{_SETTINGS}_PROJECTS"))


def _say(text: str) -> None:
    print(text, flush=True)
