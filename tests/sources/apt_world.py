"""Small apt archives, signed by a key of their own, and the real apt that reads them."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imgc.lock import Source

ARCHITECTURE = "amd64"

PACKERS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


@dataclass
class Signer:
    """A throw-away key."""

    home: Path

    @property
    def keyring(self) -> Path:
        return self.home / "public.gpg"

    def run(self, *arguments: str) -> None:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--yes", "--quiet", *arguments]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)


@contextmanager
def signer() -> Iterator[Signer]:
    """A key that lasts as long as the block; its directory is short, since gpg-agent's socket is in it."""
    with tempfile.TemporaryDirectory(prefix="imgc-gpg-") as directory:
        made = Signer(Path(directory))
        made.run(
            "--passphrase", "", "--quick-generate-key", "archive@example.org", "ed25519", "sign", "never"
        )
        made.run("--output", str(made.keyring), "--export")
        try:
            yield made
        finally:
            kill = ["gpgconf", "--homedir", directory, "--kill", "gpg-agent"]
            subprocess.run(kill, check=True, capture_output=True)


@dataclass
class Archive:
    """An archive in a directory: ``dists/`` and ``pool/``."""

    root: Path
    signer: Signer
    by_hash: bool = True

    def package(self, name: str, version: str, *, size: int = 0) -> Path:
        """Put a real .deb into the pool; ``size`` random bytes are in it."""
        pool = self.root / "pool/main" / name
        pool.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            tree = Path(directory) / "tree"
            (tree / "DEBIAN").mkdir(parents=True)
            (tree / "DEBIAN").chmod(0o755)
            (tree / "usr/share").mkdir(parents=True)
            (tree / "usr/share" / name).write_bytes(os.urandom(size) or version.encode())
            (tree / "DEBIAN/control").write_text(
                f"Package: {name}\nVersion: {version}\nArchitecture: {ARCHITECTURE}\n"
                "Maintainer: Nobody <nobody@example.org>\nDescription: nothing\n"
            )
            made = pool / f"{name}_{version.replace(':', '%3a')}_{ARCHITECTURE}.deb"
            build = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(made)]
            subprocess.run(build, check=True, capture_output=True)
        return made

    def publish(
        self,
        suite: str,
        *packages: Path,
        date: str = "Sat, 16 May 2026 09:45:00 UTC",
        packed: tuple[str, ...] = ("", ".gz", ".xz"),
        detached: bool = False,
    ) -> str:
        """Write the indexes of a suite; the sha256 of what says what it is.  Old ones stay only by their digests."""
        where = self.root / "dists" / suite
        old = [path for path in where.rglob("*") if path.is_file() and "by-hash" not in path.parts]
        for path in old:
            path.unlink()
        index = where / f"main/binary-{ARCHITECTURE}"
        index.mkdir(parents=True, exist_ok=True)
        text = "\n".join(self._stanza(package) for package in packages).encode()
        lines = []
        for suffix in packed:
            data = PACKERS[suffix](text)
            (index / f"Packages{suffix}").write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            lines.append(f" {digest} {len(data)} main/binary-{ARCHITECTURE}/Packages{suffix}")
            if self.by_hash:
                (index / "by-hash/SHA256").mkdir(parents=True, exist_ok=True)
                (index / "by-hash/SHA256" / digest).write_bytes(data)
        release = where / "Release"
        release.write_text(
            f"Origin: Test\nSuite: {suite}\nCodename: {suite}\nVersion: 12.1\nDate: {date}\n"
            f"Acquire-By-Hash: {'yes' if self.by_hash else 'no'}\n"
            f"Architectures: {ARCHITECTURE}\nComponents: main\nDescription: a test\nSHA256:\n"
            + "".join(f"{line}\n" for line in lines)
        )
        if detached:
            self.signer.run("--output", str(where / "Release.gpg"), "--detach-sign", "--armor", str(release))
            return hashlib.sha256(release.read_bytes()).hexdigest()
        self.signer.run("--output", str(where / "InRelease"), "--clear-sign", str(release))
        return hashlib.sha256((where / "InRelease").read_bytes()).hexdigest()

    def _stanza(self, package: Path) -> str:
        data = package.read_bytes()
        control = subprocess.run(
            ["dpkg-deb", "--field", str(package)], check=True, capture_output=True, text=True
        ).stdout
        path = package.relative_to(self.root)
        return f"{control}Filename: {path}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"


class Apt:
    """The real apt-get, with a state of its own."""

    def __init__(self, home: Path, sources: str) -> None:
        self.home = home
        for name in ("state/lists/partial", "cache/archives/partial", "etc"):
            (home / name).mkdir(parents=True)
        (home / "status").touch()
        (home / "etc/sources.list").write_text(sources)
        (home / "apt.conf").write_text(
            f'Dir::State "{home}/state";\nDir::State::status "{home}/status";\nDir::Cache "{home}/cache";\n'
            f'Dir::Etc "{home}/etc";\nDir::Etc::sourceparts "/dev/null";\nDir::Etc::parts "/dev/null";\n'
            f'APT::Architecture "{ARCHITECTURE}";\nAPT::Architectures "";\nAPT::Sandbox::User "";\n'
            'Acquire::Languages "none";\nAcquire::Retries "0";\nAPT::Update::Error-Mode "any";\n'
        )

    def run(self, *arguments: str, proxy: str, directory: Path | None = None) -> tuple[int, str]:
        """The exit status, and everything that apt-get says."""
        # Empty, so that apt asks the proxy for an archive on loopback as well.
        environment = {
            "PATH": os.environ["PATH"],
            "APT_CONFIG": str(self.home / "apt.conf"),
            "http_proxy": proxy,
            "no_proxy": "",
            "LC_ALL": "C.UTF-8",
        }
        done = subprocess.run(
            ["apt-get", *arguments],
            env=environment,
            cwd=directory or self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    def forget(self) -> None:
        """As if it had never asked."""
        for name in ("state/lists", "cache/archives"):
            shutil.rmtree(self.home / name)
            (self.home / name / "partial").mkdir(parents=True)


def source(url: str, suite: str, **detail: str) -> Source:
    """A suite as a plan names it."""
    named: Mapping[str, str] = {
        "suite": suite,
        "components": "main",
        "architecture": ARCHITECTURE,
        **detail,
    }
    return Source("apt", f"debian {suite}", url, tuple(named.items()))
