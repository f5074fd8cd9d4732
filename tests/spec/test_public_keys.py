"""Public keys, judged beside ssh-keygen."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgc.spec.public_keys import LONGEST_LINE, check

#: What ssh-keygen makes: its type and the bits to ask for.
KINDS = {
    "ed25519": ("ed25519", ""),
    "rsa2048": ("rsa", "2048"),
    "ecdsa256": ("ecdsa", "256"),
    "ecdsa384": ("ecdsa", "384"),
    "ecdsa521": ("ecdsa", "521"),
}


def keygen(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ssh-keygen", *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a real key of each kind, and an RSA key that is too short."""
    directory = tmp_path_factory.mktemp("keys")
    for name, (kind, bits) in {**KINDS, "rsa1024": ("rsa", "1024")}.items():
        sized = ("-b", bits) if bits else ()
        done = keygen("-q", "-t", kind, *sized, "-N", "", "-C", "a comment", "-f", str(directory / name))
        assert done.returncode == 0, done.stderr
    return directory


def public(made: Path, name: str) -> str:
    return (made / f"{name}.pub").read_text().strip()


def blob(*strings: bytes) -> str:
    return base64.b64encode(b"".join(len(one).to_bytes(4, "big") + one for one in strings)).decode()


def ed25519_part(made: Path) -> bytes:
    return base64.b64decode(public(made, "ed25519").split()[1])[-32:]


def ecdsa_part(made: Path) -> bytes:
    return base64.b64decode(public(made, "ecdsa256").split()[1])[-65:]


# --- what is right ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_real_keys(made: Path, name: str) -> None:
    line = public(made, name)
    assert check(line) == ""
    assert check(" ".join(line.split()[:2])) == ""
    assert check(f"  {line} ") == ""
    assert check(line.replace(" ", "\t")) == ""


def test_keys_of_security_tokens(made: Path) -> None:
    ed = b"sk-ssh-ed25519@openssh.com"
    ec = b"sk-ecdsa-sha2-nistp256@openssh.com"
    lines = [
        f"{ed.decode()} {blob(ed, ed25519_part(made), b'ssh:')} token",
        f"{ec.decode()} {blob(ec, b'nistp256', ecdsa_part(made), b'ssh:')}",
    ]
    for line in lines:
        (made / "token.pub").write_text(f"{line}\n")
        assert keygen("-l", "-f", str(made / "token.pub")).returncode == 0
        assert check(line) == ""
    assert "application" in check(f"{ed.decode()} {blob(ed, ed25519_part(made), b'')}")


@pytest.mark.parametrize(
    "options",
    [
        "restrict",
        "restrict,pty",
        'from="10.0.0.0/8,*.example.org"',
        'command="echo \\"a, b\\" c",no-pty',
        "No-X11-Forwarding,cert-authority",
        'environment="A=b",expiry-time="20300101"',
    ],
)
def test_options(made: Path, options: str) -> None:
    assert check(f"{options} {public(made, 'ed25519')}") == ""


def test_a_comment_may_be_in_any_language(made: Path) -> None:
    assert check(f"{public(made, 'ed25519')} Jürgen's key, 鍵 # one") == ""


# --- what is wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("command=ls", "has no value in quotes"),
        ('from="10.0.0.1', "has no value in quotes"),
        ("no-such-option", "nor with an option"),
        ("restrict, pty", "nor with an option"),
        ("restrict:pty", "neither a comma nor a blank"),
        ("pty=yes", "neither a comma nor a blank"),
    ],
)
def test_wrong_options(made: Path, options: str, said: str) -> None:
    assert said in check(f"{options} {public(made, 'ed25519')}")


@pytest.mark.parametrize("form", ["RFC4716", "PEM", "PKCS8"])
def test_private_keys_are_told_and_not_repeated(made: Path, tmp_path: Path, form: str) -> None:
    file = tmp_path / "key"
    assert keygen("-q", "-t", "rsa", "-m", form, "-N", "", "-f", str(file)).returncode == 0
    text = file.read_text()
    for pasted in (text, text.replace("\n", " "), "restrict " + text):
        said = check(pasted)
        assert "private key" in said
        assert not any(len(word) > 20 and word in said for word in text.split())


def test_a_private_key_of_putty() -> None:
    assert "PuTTY" in check("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no key"),
        ("   ", "no key"),
        ("# ssh-ed25519 AAAA", "no key"),
        ("2048 65537 " + "123456789" * 40 + " root@host", "SSH version 1"),
        ("ssh-ed25519", "the key itself is missing"),
        ("ssh-dss AAAAB3NzaC1kc3M=", "DSA"),
        ("ssh-ed448 AAAA", "no type of key"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA", "certificate"),
        ("~/.ssh/id_ed25519.pub", "name of a file"),
        ("/root/.ssh/id_ed25519.pub", "name of a file"),
        ("SHA256:2GHhfVxYxE6", "fingerprint"),
        ("ssh-ed25519 !!!!", "not base64"),
        ("ssh-ed25519 AAA", "not base64"),
        ("ssh-ed25519 AAAA", "end too soon"),
        ("ssh-ed25519 /////w==", "end too soon"),
        ("AAAAC3NzaC1lZDI1NTE5AAAA", "nor with an option"),
        ("an éàü", "nor with an option"),
        ("restrict", "neither a comma nor a blank"),
        ("restrict something else", "no type of key"),
    ],
)
def test_what_is_no_key(text: str, said: str) -> None:
    assert said in check(text)


def test_keys_that_are_damaged(made: Path) -> None:
    kind, body, _ = public(made, "ed25519").split(" ", 2)
    part = ed25519_part(made)
    assert "end too soon" in check(f"{kind} {body[:-4]}")
    assert "say otherwise" in check(f"ssh-rsa {body}")
    assert "has 31" in check(f"{kind} {blob(kind.encode(), part[:31])}")
    assert "after their end" in check(f"{kind} {blob(kind.encode(), part, b'')}")
    assert "more than one line" in check(f"{kind} {body}\n{kind} {body}")
    assert "more than one line" in check(f"{kind} {body} a\0b")
    assert "longer than" in check(f"{kind} {body} {'x' * LONGEST_LINE}")
    curve = b"ecdsa-sha2-nistp256"
    moved = bytearray(ecdsa_part(made))
    moved[40] ^= 1
    assert "no point" in check(f"{curve.decode()} {blob(curve, b'nistp256', bytes(moved))}")
    assert "another curve" in check(f"{curve.decode()} {blob(curve, b'nistp384', ecdsa_part(made))}")


def test_rsa_keys_have_2048_bits_at_least(made: Path) -> None:
    assert "1024 bits" in check(public(made, "rsa1024"))
    huge = blob(b"ssh-rsa", b"\1\0\1", b"\0" + b"\xff" * 2050)
    assert "at most" in check(f"ssh-rsa {huge}")
    even = blob(b"ssh-rsa", b"\2", b"\0" + b"\xff" * 256)
    assert "cannot be" in check(f"ssh-rsa {even}")
    negative = blob(b"ssh-rsa", b"\xff", b"\1")
    assert "RFC 4251" in check(f"ssh-rsa {negative}")


def test_certificates_are_told(made: Path, tmp_path: Path) -> None:
    (tmp_path / "user.pub").write_text(public(made, "ed25519") + "\n")
    signed = keygen("-q", "-s", str(made / "rsa2048"), "-I", "id", "-n", "zuul", str(tmp_path / "user.pub"))
    assert signed.returncode == 0, signed.stderr
    assert "certificate" in check((tmp_path / "user-cert.pub").read_text().strip())


# --- beside ssh-keygen --------------------------------------------------------------------------------------------


@given(data=st.data(), name=st.sampled_from(sorted(KINDS)))
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_passes_is_a_key_to_ssh_keygen(data: st.DataObject, name: str, made: Path) -> None:
    """A key with some bytes changed, cut or doubled: whatever passes, OpenSSH reads."""
    kind, body, comment = public(made, name).split(" ", 2)
    raw = bytearray(base64.b64decode(body))
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([None, None, None, -1, len(raw) // 2]))
    tail = data.draw(st.sampled_from([b"", b"", b"\0", b"\0\0\0\1x"]))
    line = f"{kind} {base64.b64encode(bytes(raw[:cut]) + tail).decode()} {comment}"
    file = made / "changed.pub"
    file.write_text(f"{line}\n")
    accepted = keygen("-l", "-f", str(file)).returncode == 0
    said = check(line)
    assert accepted or said, line
    if accepted and said:
        # OpenSSH itself takes short RSA keys, odd exponents, and bytes after the end.
        assert any(word in said for word in ("bits", "RSA key", "RFC 4251", "after their end")), (line, said)


@given(st.text())
def test_any_text_has_an_answer(text: str) -> None:
    assert isinstance(check(text), str)
    assert check(text), text


@given(st.text(alphabet=' ,="\\ab-', max_size=30), st.sampled_from(["restrict", "from=", "pty", ""]))
def test_any_options_have_an_answer(made: Path, text: str, option: str) -> None:
    said = check(f"{option}{text} {public(made, 'ed25519')}")
    assert said == "" or ("option" in said or "type of key" in said), said
