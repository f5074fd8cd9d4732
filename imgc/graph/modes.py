"""The modes that files have in the hooks tree, whatever umask their elements were checked out with.

Git keeps one bit of a mode, whether a file is executable, and the umask makes the rest of it.  The same commit must
give the same image to everybody, so a mode that only tells of the umask is replaced by the one that the usual umask
makes.  Which umask it was is seen on the element's own directory.  Any other mode was given on purpose (a private key
beside files that everybody may read) and stays.
"""

from __future__ import annotations

from dataclasses import dataclass

_USUAL = 0o022


@dataclass(frozen=True)
class Modes:
    """The modes of one element.  ``directory`` is the mode of its own directory."""

    directory: int

    @property
    def umask(self) -> int:
        """What the umask was when the element was written."""
        return 0o777 & ~self.directory

    def canonical(self, mode: int) -> int:
        """The mode of a file or a directory of the element, as the usual umask would have made it."""
        if mode == self.directory:
            return 0o777 & ~_USUAL
        for whole in (0o666, 0o777):
            if mode == whole & ~self.umask:
                return whole & ~_USUAL
        return mode
