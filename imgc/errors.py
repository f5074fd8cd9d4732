"""The one error type of imgc, and the table of every code it can carry.

A user-facing problem is an :class:`ImgcError`: a stable code, one message, where it is, and what to do
about it.  Rooms raise; only :mod:`imgc.cli` prints and exits.  Several problems found in one run travel
together in a :class:`Problems`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, order=True)
class Place:
    """Where something was written: ``file`` as the user would name it, ``line`` and ``column`` from 1.

    A line of 0 means the file as a whole.
    """

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        if not self.line:
            return self.file
        return f"{self.file}:{self.line}:{self.column}"


#: Every code imgc can print, with what it means.  ``docs/errors.md`` is generated from this table.
CODES: dict[str, str] = {
    # Reading specs
    "E101": "A spec file cannot be read.",
    "E102": "A spec file is not valid YAML.",
    "E103": "A YAML construct that specs do not allow (several documents, an unknown tag, a cyclic alias).",
    "E104": "The same key is written twice in one mapping.",
    "E105": "An unknown key.",
    "E106": "A required key is missing.",
    "E107": "A value has the wrong type.",
    "E108": "A value is not one of those allowed.",
    "E109": "A value does not have the right form.",
    "E110": "A template does not parse or cannot be rendered.",
    "E111": "A template uses an undefined variable.",
    "E112": "`extends` names a file that does not exist.",
    "E113": "`extends` forms a cycle.",
    "E114": "The spec is written for another schema version.",
    "E115": "Two settings contradict each other.",
    "E116": "No platform, or no step, of that name.",
    "E117": "No directory of specs.",
    "E118": "A user of the image, or a key of theirs, is not written as it has to be.",
    # Resolving elements
    "E201": "No element of that name on the search path.",
    "E202": "Two elements provide the same thing.",
    "E203": "No element provides an operating system.",
    "E204": "An element search path does not exist.",
    "E205": "Two elements bring the same hook.",
    "E206": "Two elements bring the same file.",
    "E207": "A hook cannot be run by its name, mode or type.",
    "E208": "Nothing provides a virtual element that another depends on.",
    "E209": "An element's own description (package-installs, pkg-map, element-deps) cannot be read.",
    # Running steps
    "E301": "A step failed.",
    "E302": "A program that the build needs is not installed.",
    "E303": "The sandbox cannot be set up on this system.",
    "E304": "The cache directory cannot be used.",
    "E306": "No apt source of the host serves the wanted release.",
    "E307": "The build was interrupted.",
    "E308": "Another platform of the same build failed first.",
    # Disks and formats
    "E401": "The tree does not fit on the disk.",
    "E402": "The image's tree lacks what its boot loader needs.",
    "E403": "A file system or partition table could not be made.",
    "E404": "A finished image failed its check.",
    "E405": "An output cannot be written.",
    # Booting
    "E501": "No QEMU that can run this image.",
    "E502": "The guest did not come up in time.",
    "E503": "The guest came up wrong.",
    "E504": "The image to boot cannot be read.",
    # Taking things from outside
    "E601": "Something that a build takes from outside cannot be fetched.",
    "E602": "What was fetched has other bytes than those pinned.",
    "E603": "A package archive no longer has what was pinned.",
    "E604": "Something is not in the cache, and nothing may be fetched.",
    "E605": "The index of a package archive cannot be understood.",
    "E606": "A package is not in the index that was pinned.",
    "E611": "A lock file cannot be read.",
    "E612": "Something is not pinned, and nothing may be looked up.",
    "E613": "A lock is missing, or is not for what its spec takes from outside.",
    "E614": "What a source is now cannot be found out.",
    "E615": "What was pinned is no longer where it came from.",
    "E616": "A line by which an element names what it takes from outside cannot be read.",
    "E617": "The Python of the image is not known.",
    "E621": "A layer in the cache is damaged.",
    "E622": "The size that the cache may have cannot be read.",
    "E631": "The record of a build cannot be written.",
    # Building twice alike
    "E641": "A file differs between two builds of one platform.",
    "E642": "Two builds cannot be compared.",
    "E643": "An output differs between two builds of one platform whose trees are equal.",
    # Caches in the image, and other bases
    "E651": "A list of projects cannot be read, or an entry of it is wrong.",
    "E652": "A repository of the git cache cannot be refreshed.",
    "E653": "A project of the git cache is unknown to its server.",
    "E656": "A list of packages (bindep.txt and the like) cannot be read.",
    "E657": "A package that a list names cannot be had for the image.",
    "E658": "A package is installed that only the package cache may hold.",
    "E659": "A file of the file cache cannot be fetched.",
    "E660": "A file of the file cache has other bytes than the spec says.",
    "E661": "A script that names files for the file cache failed.",
    "E665": "A base image cannot be opened.",
    "E666": "The file system of a base image cannot be read without mounting it.",
    # imgc itself
    "E901": "A defect in imgc.",
    "E902": "The system has no room left.",
}


class ImgcError(Exception):
    """One problem a user can act on.

    ``code`` is a key of :data:`CODES`, ``message`` one sentence that says what is wrong, ``hint`` what to do
    about it, ``place`` where it was written.  ``detail`` is further text to show under it (the last lines of a
    program, a diff).
    """

    def __init__(
        self, code: str, message: str, *, hint: str = "", place: Place | None = None, detail: str = ""
    ) -> None:
        if code not in CODES:
            raise ValueError(f"unregistered error code {code}")
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.place = place
        self.detail = detail

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        return f"{where}{self.code}: {self.message}"


class Problems(ImgcError):
    """Several problems found in one run, in the order in which a reader of the files meets them."""

    def __init__(self, problems: Iterable[ImgcError]) -> None:
        self.problems = sorted_problems(problems)
        first = self.problems[0]
        super().__init__(first.code, first.message, hint=first.hint, place=first.place, detail=first.detail)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def sorted_problems(problems: Iterable[ImgcError]) -> list[ImgcError]:
    """Flatten nested :class:`Problems`, drop exact repeats, order by file, line and column."""
    flat: dict[tuple[Place, str, str], ImgcError] = {}
    for problem in problems:
        for one in problem.problems if isinstance(problem, Problems) else (problem,):
            flat.setdefault((one.place or Place(""), one.code, one.message), one)
    return [flat[key] for key in sorted(flat)]


@dataclass
class Collector:
    """Gathers problems so that one run reports all of them; :meth:`check` raises when there are any."""

    problems: list[ImgcError] = field(default_factory=list)

    def add(self, problem: ImgcError) -> None:
        self.problems.append(problem)

    def check(self) -> None:
        """Raise the only problem as itself, several as :class:`Problems`; return when there is none."""
        found = sorted_problems(self.problems)
        if len(found) == 1:
            raise found[0]
        if found:
            raise Problems(found)
