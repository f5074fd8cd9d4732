"""``python -m imgc.caches files``: the file cache for an image that another driver builds."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from imgc.caches.file_cache import NAME, make_file_tree, pin_file_cache
from imgc.errors import Collector, ImgcError, Place
from imgc.lock import Source

#: What places call the list: the variable that the element reads it from.
_LIST = "DIB_CACHE_FILES"

_SHA256 = re.compile("[0-9a-fA-F]{64}")
_URL = re.compile(r"(?:https?|file)://\S+")


def run(arguments: Sequence[str]) -> int:
    """Fetch the files that standard input lists, and put them below ``--into``; the exit status.

    A line is ``URL [SHA256] [NAME]``.  What cannot be had is a warning, unless ``--strict``.  Raises E109 for lines
    that are not of this form, and what fetching raises.
    """
    parser = argparse.ArgumentParser(prog="python -m imgc.caches files", description=run.__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="where downloads are kept")
    parser.add_argument("--into", type=Path, required=True, help="a directory; the tree is made in its mnt/")
    parser.add_argument("--directory", default="/opt/cache/files", help="where the files are in the image")
    parser.add_argument("--strict", action="store_true", help="fail when a file cannot be had")
    options = parser.parse_args(arguments)
    _run(sys.stdin.read(), options)
    return 0


def _run(text: str, options: argparse.Namespace) -> None:
    entries, places = read_list(text)
    detail = {
        "files": json.dumps(entries),
        "directory": options.directory,
        "strict": "yes" if options.strict else "",
    }
    source = Source("file-cache", "files", "", tuple(detail.items()), Place(_LIST))
    cache = options.cache.absolute()
    pinned = pin_file_cache(source, None, None, cache, run_script=_none, tell=_say, places=places)
    for finding in pinned.findings or ():
        print(f"imgc: warning: {finding}", file=sys.stderr)
    make_file_tree(source, pinned.pin, options.into, cache, offline=False, on_line=_say)


def read_list(text: str) -> tuple[list[list[str]], list[Place]]:
    """[URL, sha256, name] of each line, and its place.  Raises E109 for lines that are not of this form."""
    entries: list[list[str]] = []
    places: list[Place] = []
    problems = Collector()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        place = Place(_LIST, number, line.index(words[0]) + 1)
        url, *rest = words
        sha256 = rest.pop(0).lower() if rest and _SHA256.fullmatch(rest[0]) else ""
        name = rest.pop(0) if rest and NAME.fullmatch(rest[0]) else ""
        if rest or not _URL.fullmatch(url):
            said = f"`{line.strip()}` does not name a file."
            hint = "A line is a URL, then its sha256 and a name where it needs them."
            problems.add(ImgcError("E109", said, hint=hint, place=place))
            continue
        entries.append([url, sha256, name])
        places.append(place)
    problems.check()
    return entries, places


def _say(line: str) -> None:
    print(line)


def _none(directory: Path, argv: Sequence[str], on_line: Callable[[str], None]) -> int:
    """There is no list of devstack here, and so no script."""
    raise ValueError("no script is asked for")
