"""Putting finished files where the user wants them, whole or not at all, with their checksums beside them."""

from __future__ import annotations

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from imgc.disk import sparse
from imgc.errors import ImgcError

_CHUNK = 4 * 1024 * 1024
_PARTIAL = ".partial"
_ALGORITHMS = ("sha256", "md5")


@dataclass(frozen=True)
class Published:
    """A file at its place: its path and its digests in hexadecimal."""

    path: str
    sha256: str
    md5: str


def publish(made: str, final: str, *, keep: bool = False) -> Published:
    """Put the finished file ``made`` at ``final``, with ``final.sha256`` and ``final.md5`` beside it.

    ``made`` is moved, or with ``keep`` copied.  Nothing of an existing ``final`` is touched before its
    successor lies complete in the same directory; then the old checksums go, the file is replaced in one
    step, and the new checksums come, so that at no moment a checksum stands beside a file that it does not
    belong to.  Raises E405.
    """
    partial = final + _PARTIAL
    try:
        os.makedirs(os.path.dirname(os.path.abspath(final)), exist_ok=True)
        _bring(made, partial, keep)
        digests = _digests(partial)
        for name, value in digests.items():
            with open(f"{final}.{name}{_PARTIAL}", "w", encoding="utf-8") as file:
                file.write(f"{value}  {os.path.basename(final)}\n")
                file.flush()
                os.fsync(file.fileno())
        for name in digests:
            if os.path.exists(f"{final}.{name}"):
                os.unlink(f"{final}.{name}")
        os.replace(partial, final)
        for name in digests:
            os.replace(f"{final}.{name}{_PARTIAL}", f"{final}.{name}")
    except BaseException as error:
        for path in (partial, *(f"{final}.{name}{_PARTIAL}" for name in _ALGORITHMS)):
            if os.path.exists(path):
                os.unlink(path)
        if isinstance(error, OSError):
            raise ImgcError("E405", f"Writing {final}: {error.strerror or error}.") from error
        raise
    return Published(final, digests["sha256"], digests["md5"])


def published(final: str) -> Published | None:
    """What lies at ``final`` according to the checksums beside it; None unless all three files are there."""
    values: dict[str, str] = {}
    for name in _ALGORITHMS:
        try:
            with open(f"{final}.{name}", encoding="utf-8") as file:
                values[name] = file.read().split()[0]
        except (OSError, IndexError):
            return None
    if not os.path.isfile(final):
        return None
    return Published(final, values["sha256"], values["md5"])


def _bring(made: str, partial: str, keep: bool) -> None:
    if not keep:
        try:
            os.replace(made, partial)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            sparse.copy_file(made, partial)
            os.unlink(made)
    else:
        sparse.copy_file(made, partial)
    with open(partial, "rb") as file:
        os.fsync(file.fileno())


def _digests(path: str) -> dict[str, str]:
    """Every digest of a file, which is read once; the digests are computed side by side."""
    hashes = [hashlib.new(name, usedforsecurity=False) for name in _ALGORITHMS]
    with open(path, "rb") as file, ThreadPoolExecutor(len(hashes)) as pool:
        while data := file.read(_CHUNK):
            for future in [pool.submit(one.update, data) for one in hashes]:
                future.result()
    return {name: one.hexdigest() for name, one in zip(_ALGORITHMS, hashes, strict=True)}
