"""The checksums of a finished file, read once."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

_CHUNK = 4 * 1024 * 1024
_ALGORITHMS = ("sha256", "md5")


def digests(path: str) -> tuple[str, str]:
    """(sha256, md5) of a file in hexadecimal, computed side by side."""
    hashes = [hashlib.new(name, usedforsecurity=False) for name in _ALGORITHMS]
    with open(path, "rb") as file, ThreadPoolExecutor(len(hashes)) as pool:
        while data := file.read(_CHUNK):
            for future in [pool.submit(one.update, data) for one in hashes]:
                future.result()
    sha256, md5 = (one.hexdigest() for one in hashes)
    return sha256, md5
