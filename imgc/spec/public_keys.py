"""What may stand in an authorized_keys file: one OpenSSH public key, read as sshd reads it.

A wrong key is found out at the first login, on a machine that nobody can log in to; and a private key that was taken
for a public one would be in every image.  So :func:`check` reads a key to its end, by RFC 4253 and the documents of
OpenSSH (PROTOCOL, PROTOCOL.u2f), with nothing but the standard library: specs load in milliseconds.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable

#: sshd reads no longer line, in bytes.
LONGEST_LINE = 16384

#: Bits of an RSA modulus: newer systems refuse shorter ones, and OpenSSH longer ones.
SHORTEST_RSA, LONGEST_RSA = 2048, 16384

#: The curves by their names in SSH: the prime and ``b``; ``a`` is -3 for all of them (SEC 2).
_CURVES = {
    "nistp256": (
        2**256 - 2**224 + 2**192 + 2**96 - 1,
        0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    ),
    "nistp384": (
        2**384 - 2**128 - 2**96 + 2**32 - 1,
        0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    ),
    "nistp521": (
        2**521 - 1,
        (0x0051953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E1 << 256)
        + 0x56193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B503F00,
    ),
}

#: Options that sshd knows; those with True take a value.  It passes over a line with any other.
_OPTIONS = {
    **dict.fromkeys(("agent-forwarding", "port-forwarding", "pty", "user-rc", "x11-forwarding"), False),
    **dict.fromkeys(
        ("no-agent-forwarding", "no-port-forwarding", "no-pty", "no-user-rc", "no-x11-forwarding"), False
    ),
    **dict.fromkeys(("cert-authority", "no-touch-required", "restrict", "verify-required"), False),
    **dict.fromkeys(("command", "environment", "expiry-time", "from", "permitlisten", "permitopen"), True),
    **dict.fromkeys(("principals", "tunnel"), True),
}

#: What people paste instead of a public key, by what it begins with or holds.
_OTHERS = (
    (
        re.compile(r"BEGIN [A-Z0-9 ]*PRIVATE KEY"),
        "it is a private key: take it out of this file, and count it as known to others",
    ),
    (
        re.compile(r"\A\s*PuTTY-User-Key-File"),
        "it is a private key of PuTTY, which must not be in any file here",
    ),
    (re.compile(r"\ASSH PRIVATE KEY FILE FORMAT"), "it is a private key of SSH version 1"),
    (
        re.compile(r"\A---- ?BEGIN SSH2 PUBLIC KEY|\A-----BEGIN (?:RSA )?PUBLIC KEY"),
        "it is a public key, but not in OpenSSH's form: `ssh-keygen -i` converts it",
    ),
    (re.compile(r"\A-----BEGIN "), "it is a PEM file, not an OpenSSH public key"),
    (
        re.compile(r"\A(?:.* )?\d{3,5} \d{1,10} \d{100,}(?: |\Z)"),
        "it is a key of SSH version 1, which no server takes any more",
    ),
    (re.compile(r"\A(?:~|\.{0,2}/)[^ ]*\Z"), "it is the name of a file; the key itself is wanted"),
    (re.compile(r"\A(?:SHA256|MD5):"), "it is the fingerprint of a key; the key itself is wanted"),
)

_TYPE = re.compile(r"(?:sk-)?(?:ssh|ecdsa)-[\w@.-]+\Z", re.ASCII)


class _Wrong(Exception):
    """What is wrong with a key, in words."""


class _Blob:
    """The binary form of a key: strings, each after its length in four bytes."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def string(self) -> bytes:
        """The next string."""
        length = int.from_bytes(self._rest[:4], "big")
        if len(self._rest) < 4 + length or len(self._rest) < 4:
            raise _Wrong("its key data end too soon; was it cut when it was copied?")
        value, self._rest = self._rest[4 : 4 + length], self._rest[4 + length :]
        return value

    def number(self) -> int:
        """The next string as a whole number above zero."""
        value = self.string()
        if not value or value[0] & 0x80 or (value[0] == 0 and (len(value) == 1 or not value[1] & 0x80)):
            raise _Wrong("a number in its key data is not as RFC 4251 has it")
        return int.from_bytes(value, "big")

    def end(self) -> None:
        if self._rest:
            raise _Wrong(f"its key data go on for {len(self._rest)} bytes after their end")


def _rsa(blob: _Blob) -> None:
    exponent, modulus = blob.number(), blob.number()
    bits = modulus.bit_length()
    if bits < SHORTEST_RSA:
        raise _Wrong(f"it is an RSA key of {bits} bits; fewer than {SHORTEST_RSA} are not accepted any more")
    if bits > LONGEST_RSA:
        raise _Wrong(f"it is an RSA key of {bits} bits; OpenSSH takes at most {LONGEST_RSA}")
    if not exponent & 1 or exponent < 3 or not modulus & 1:
        raise _Wrong("its numbers cannot be those of an RSA key")


def _ed25519(blob: _Blob) -> None:
    if (length := len(blob.string())) != 32:
        raise _Wrong(f"an Ed25519 key has 32 bytes, and this one has {length}")


def _ecdsa(curve: str) -> Callable[[_Blob], None]:
    prime, b = _CURVES[curve]
    size = (prime.bit_length() + 7) // 8

    def read(blob: _Blob) -> None:
        if blob.string() != curve.encode():
            raise _Wrong(f"its key data name another curve than {curve}")
        point = blob.string()
        x, y = int.from_bytes(point[1 : 1 + size], "big"), int.from_bytes(point[1 + size :], "big")
        on_curve = max(x, y) < prime and (y * y - (x * x * x - 3 * x + b)) % prime == 0
        if len(point) != 1 + 2 * size or point[0] != 4 or not on_curve:
            raise _Wrong(f"its key data are no point of the curve {curve}")

    return read


def _hardware(read: Callable[[_Blob], None]) -> Callable[[_Blob], None]:
    """A key that a security token holds: the key as ever, and the application it is for."""

    def read_both(blob: _Blob) -> None:
        read(blob)
        if not blob.string():
            raise _Wrong("it names no application (`ssh:`)")

    return read_both


_READERS: dict[str, Callable[[_Blob], None]] = {
    "ssh-ed25519": _ed25519,
    "ssh-rsa": _rsa,
    **{f"ecdsa-sha2-{curve}": _ecdsa(curve) for curve in _CURVES},
    "sk-ssh-ed25519@openssh.com": _hardware(_ed25519),
    "sk-ecdsa-sha2-nistp256@openssh.com": _hardware(_ecdsa("nistp256")),
}


def check(text: str) -> str:
    """What is wrong with ``text`` as the line of one key, as the end of a sentence; empty when nothing is.

    No answer repeats key data, so that a private key that was given by mistake does not get into a log as well.
    """
    for pattern, words in _OTHERS:
        if pattern.search(text):
            return words
    if any(ord(c) < 32 or ord(c) == 127 for c in text.replace("\t", " ")):
        return "it is more than one line, or has characters that cannot be printed"
    if len(text.encode("utf-8", "surrogatepass")) > LONGEST_LINE:
        return f"it is longer than {LONGEST_LINE} bytes, the longest line that sshd reads"
    line = text.strip(" \t")
    if not line or line[0] == "#":
        return "there is no key in it"
    try:
        _check_line(line)
    except _Wrong as wrong:
        return str(wrong)
    return ""


def _check_line(line: str) -> None:
    first, _, rest = line.replace("\t", " ").partition(" ")
    if not _looks_like_type(first):
        first, _, rest = _after_options(line).replace("\t", " ").partition(" ")
        if not _looks_like_type(first):
            raise _Wrong("it has no type of key, such as `ssh-ed25519`, where one has to stand")
    _check_type(first)
    body = rest.lstrip(" ").partition(" ")[0]
    if not body:
        raise _Wrong("it ends after the type; the key itself is missing")
    blob = _Blob(_decoded(body))
    inside = blob.string()
    if inside != first.encode():
        raise _Wrong(f"it says that it is of type {first}, and its key data say otherwise")
    _READERS[first](blob)
    blob.end()


def _looks_like_type(word: str) -> bool:
    return bool(_TYPE.match(word))


def _check_type(name: str) -> None:
    if name in _READERS:
        return
    if "-cert-v0" in name:
        raise _Wrong(
            "it is a certificate; authorized_keys takes keys, and `cert-authority` before that of an authority"
        )
    if name == "ssh-dss":
        raise _Wrong("it is a DSA key, which OpenSSH does not accept any more")
    raise _Wrong(f"`{name[:40]}` is no type of key that OpenSSH knows; {', '.join(_READERS)} are")


def _decoded(body: str) -> bytes:
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise _Wrong("its key data are not base64; was it cut when it was copied?") from None


def _after_options(line: str) -> str:
    """What follows the options that a line begins with: words, some with a quoted value, between commas."""
    at = 0
    while True:
        found = re.compile(r"[A-Za-z0-9-]+").match(line, at)
        name = found[0] if found else ""
        if name.lower() not in _OPTIONS:
            raise _Wrong(
                "it begins neither with a type of key, such as `ssh-ed25519`, nor with an option of sshd"
            )
        at += len(name)
        if _OPTIONS[name.lower()]:
            at = _after_value(line, at, name)
        if line[at : at + 1] in (" ", "\t"):
            return line[at:].lstrip(" \t")
        if line[at : at + 1] != ",":
            raise _Wrong(f"its option `{name}` is followed by neither a comma nor a blank")
        at += 1


def _after_value(line: str, at: int, name: str) -> int:
    """Where the quoted value that begins at ``at`` ends."""
    value = re.compile(r'="((?:\\"|[^"])*)"').match(line, at)
    if not value:
        raise _Wrong(f'its option `{name}` has no value in quotes: {name}="…"')
    return value.end()
