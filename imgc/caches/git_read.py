"""Files of pinned branches, read from the mirrors of the git cache without a checkout."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from imgc.caches.model import Tree
from imgc.errors import ImgcError
from imgc.sources.download import shown
from imgc.sources.git_program import git_alone

#: What precedes an answer of git that is not an object: why a path (or the symbolic link at it) leads to none.
_NOT_THERE = (b"missing", b"ambiguous")
_LEADS_NOWHERE = (b"dangling", b"loop", b"notdir", b"symlink")


def mirror_of(cache: Path, origin: str) -> Path:
    """Where the bare mirror of an upstream is, in the cache."""
    return cache / "caches" / "git" / "mirrors" / hashlib.sha256(origin.encode()).hexdigest()[:32]


def files_at(cache: Path, tree: Tree, paths: Sequence[str]) -> Iterator[tuple[str, str, bytes]]:
    """(branch, path, content) of each of ``paths`` that is a file on a branch of ``tree``; one git process.

    Symbolic links are followed within the branch.  Raises E604 when the mirror lacks a commit.
    """
    if not tree.heads or not paths:
        return
    if bad := next((path for path in paths if "\n" in path), None):
        raise ValueError(f"git cannot be asked for {bad!r}")
    # Each commit is asked for itself first: a missing one is told from a missing file so.
    asked = "".join(
        f"{commit}\n{''.join(f'{commit}:{path}{chr(10)}' for path in paths)}"
        for _branch, commit in tree.heads
    )
    with tempfile.TemporaryFile(prefix="imgc-git-") as file:
        _ask(mirror_of(cache, tree.origin), tree, asked, file)
        for branch, commit in tree.heads:
            if _answer(file, commit) is None:
                raise not_in_mirror(tree, branch, commit)
            for path in paths:
                content = _answer(file, f"{commit}:{path}")
                if content is not None:
                    yield branch, path, content


def export(cache: Path, tree: Tree, branch: str, into: Path) -> None:
    """Put the files of one branch into ``into``, which is made.  Raises E604 when the mirror lacks its commit.

    Files get modes 644 and 755 whatever the umask.  Nothing of the repository goes along.
    """
    commit = dict(tree.heads)[branch]
    into.mkdir(parents=True, exist_ok=True)
    mirror = mirror_of(cache, tree.origin)
    if not has_commits(mirror, [commit]):
        raise not_in_mirror(tree, branch, commit)
    with tempfile.TemporaryDirectory(prefix="imgc-git-") as scratch:
        archive = Path(scratch) / "archive.tar"
        umask = ("-c", "tar.umask=0022")
        git_alone(mirror, *umask, "archive", "--format=tar", f"--output={archive}", commit)
        _unpack(archive, into)


def has_commits(mirror: Path, commits: Sequence[str]) -> bool:
    """Whether a mirror is there and holds all of these commits."""
    if not (mirror / "HEAD").is_file():
        return False
    asked = "".join(f"{commit}^{{commit}}\n" for commit in commits)
    done = git_alone(mirror, "cat-file", "--batch-check=%(objectname)", stdin=asked, check=False)
    return not done.status and done.output.splitlines() == list(commits)


def not_in_mirror(tree: Tree, branch: str, commit: str) -> ImgcError:
    """E604 for a pinned commit that the cache has no longer."""
    said = f"Commit {commit} of {tree.name} ({branch}) is not in the mirror of {shown(tree.origin)}."
    hint = "`imgc build --refresh` fetches it, as long as its server has it."
    return ImgcError("E604", said, hint=hint)


def _ask(mirror: Path, tree: Tree, asked: str, file: IO[bytes]) -> None:
    """Have git write its answers into ``file``, which is at its beginning afterwards."""
    if not (mirror / "HEAD").is_file():
        raise not_in_mirror(tree, *tree.heads[0])
    git_alone(mirror, "cat-file", "--batch", "--follow-symlinks", stdin=asked, output=file.fileno())
    file.seek(0)


def _answer(file: IO[bytes], asked: str) -> bytes | None:
    """The next answer of ``git cat-file --batch``: an object's bytes; None where it is no file (or commit)."""
    head = file.readline().rstrip(b"\n")
    for word in _NOT_THERE:
        if head == asked.encode() + b" " + word:
            return None
    fields = head.split(b" ")
    if len(fields) == 2 and fields[0] in _LEADS_NOWHERE:
        file.read(int(fields[1]) + 1)
        return None
    if len(fields) != 3:
        raise ImgcError("E301", f"git cat-file gives an answer that is none: {head[:200]!r}.")
    content = file.read(int(fields[2]))
    file.read(1)
    return content if fields[1] in (b"blob", b"commit") else None


def _unpack(archive: Path, into: Path) -> None:
    """Unpack git's archive of a commit, with modes that no umask changes; nothing of it outside of ``into``."""
    import tarfile

    root = into.resolve()
    with tarfile.open(archive) as tar:
        for member in tar:
            path = root / member.name.rstrip("/")
            # A commit may be made by hand: with `..` in a path, or with a symbolic link where a directory has to be.
            if ".." in path.parts or path.parent.resolve() != path.parent:
                raise ImgcError("E301", f"git archive names {member.name!r}, which lies outside of the tree.")
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                path.chmod(0o755)
            elif member.issym():
                os.symlink(member.linkname, path)
            elif member.isreg() and (content := tar.extractfile(member)):
                path.write_bytes(content.read())
                path.chmod(0o755 if member.mode & 0o100 else 0o644)
