"""Python packages as wheels: which files pip chooses for an image's Python, and exactly those files in a directory.

pip runs on the build host, with the host's index; what it chose is pinned by file name and digest, so neither an
index nor a URL is part of a pin.  Only wheels that are pure Python will do: they are for an image, not for the host.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgc import process
from imgc.errors import ImgcError
from imgc.lock import Pin, Source
from imgc.sources.cache_lock import locked

#: Seconds that pip may take; it tries again by itself when the network fails.
_TIMEOUT = 600.0

#: Settings of the host by which pip reaches its index.
_PASSED_ON = re.compile(
    r"PIP_\w+|(?i:(http|https|all|no)_proxy)|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|NETRC|XDG_CONFIG_HOME"
)

_MISMATCH = "DO NOT MATCH THE HASHES"
_ABSENT = "No matching distribution found"


def pin_wheels(source: Source, cache: Path) -> Pin:
    """The wheels that fulfil the requirements of ``source`` now, and all that they depend on.  It fetches them, too.

    A release that the image's Python cannot run is passed over for an older one.  Raises E614 with what pip says when
    there is no answer.
    """
    with _scratch(cache) as scratch:
        # `pip install --dry-run` would not do: it holds Requires-Python against the Python that runs it.
        done = _pip(source, ["download", "--dest", str(scratch)], source.get("requirements"))
        if done.status:
            raise _unresolved(source, _said(done), _tail(done))
        identity = sorted(_digests(scratch).items())
        pin = Pin("wheels", source.name, tuple(identity), source.asked)
        with locked(_directory(pin, cache)):
            _keep(scratch, _directory(pin, cache))
    return pin


def fetch_wheels(source: Source, pin: Pin, cache: Path, *, offline: bool) -> Path:
    """A directory with exactly the pinned wheels, in the cache.

    Raises E604 when one is missing and nothing may be fetched, E615 when the index no longer has one, E602 when it
    has other bytes, E601 when pip cannot get it.
    """
    directory = _directory(pin, cache)
    with locked(directory):
        if _digests(directory) == dict(pin.identity):
            return directory
        if offline:
            said = f"The wheels of {source.name} are not in the cache, and nothing may be fetched."
            raise ImgcError("E604", said, hint="Build once without --offline.", place=source.place)
        with _scratch(cache) as scratch:
            _download(source, pin, scratch)
            _keep(scratch, directory)
    return directory


def _directory(pin: Pin, cache: Path) -> Path:
    return cache / "wheels" / hashlib.sha256(pin.value.encode()).hexdigest()[:32]


@contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    """An empty directory beside those that are kept."""
    (cache / "wheels").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new.", dir=cache / "wheels") as parent:
        scratch = Path(parent, "wheels")
        scratch.mkdir(0o755)
        yield scratch


def _keep(scratch: Path, directory: Path) -> None:
    """Give a complete directory its final name, which may be that of a damaged one."""
    if directory.exists():
        shutil.rmtree(directory)
    scratch.rename(directory)


def _download(source: Source, pin: Pin, directory: Path) -> None:
    requirements = []
    for file, digest in pin.identity:
        name, version = file.split("-")[:2]
        requirements.append(f"{name}=={version} --hash=sha256:{digest}")
    options = ["download", "--no-deps", "--require-hashes", "--dest", str(directory)]
    done = _pip(source, options, "\n".join(requirements))
    if not done.status and _digests(directory) == dict(pin.identity):
        return
    hint = "`imgc lock` pins anew, once you know why it changed."
    if done.status and _MISMATCH in done.output:
        what = "other bytes than those pinned"
        raise ImgcError(
            "E602", f"A wheel of {source.name} has {what}.", hint=hint, place=source.place, detail=_tail(done)
        )
    if not done.status or _ABSENT in done.output:
        said = f"The index no longer has a wheel to which {source.name} is pinned: {_said(done)}"
        raise ImgcError("E615", said, hint=hint, place=source.place, detail=_tail(done))
    said = f"The wheels of {source.name} cannot be fetched: {_said(done)}"
    raise ImgcError("E601", said, place=source.place, detail=_tail(done))


def _pip(source: Source, options: list[str], requirements: str) -> process.Completed:
    """Run pip for the image's Python."""
    if importlib.util.find_spec("pip") is None:
        hint = f"`{sys.executable} -m ensurepip` installs it."
        raise ImgcError("E302", "Not installed: pip.", hint=hint)
    python = source.get("python")
    target = ["--only-binary=:all:", "--python-version", python, "--implementation", "py"]
    target += [
        "--abi",
        "none",
        "--platform",
        "any",
        "--no-input",
        "--disable-pip-version-check",
        "--no-color",
    ]
    runner = Path(__file__).with_name("target_pip.py")
    passed_on = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    with tempfile.TemporaryDirectory(prefix="imgc-pip-") as empty:
        file = Path(empty, "requirements.txt")
        file.write_text(f"{requirements}\n", encoding="utf-8")
        argv = [sys.executable, "-I", str(runner), python, *options, *target, "--requirement", str(file)]
        env = process.clean_environment(passed_on)
        return process.run(argv, env=env, cwd=empty, timeout=_TIMEOUT, check=False)


def _unresolved(source: Source, why: str, detail: str) -> ImgcError:
    wanted = ", ".join(source.get("requirements").splitlines())
    said = (
        f"The wheels of {source.name} ({wanted}, for Python {source.get('python')}) cannot be pinned: {why}"
    )
    hint = (
        "Is there a pure Python wheel of it, and does pip reach its index? pip's own settings are honoured."
    )
    return ImgcError("E614", said, hint=hint, place=source.place, detail=detail)


def _digests(directory: Path) -> dict[str, str]:
    """The digest of every file in a directory; empty where there is none."""
    if not directory.is_dir():
        return {}
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def _said(done: process.Completed) -> str:
    """The line of pip's output that says what is wrong."""
    lines = [
        line.removeprefix("ERROR:").strip() for line in done.output.splitlines() if line.startswith("ERROR:")
    ]
    return f"pip says: {lines[-1].rstrip('.')}." if lines else f"pip ended with status {done.status}."


def _tail(done: process.Completed) -> str:
    return "\n".join(done.output.splitlines()[-12:])
