"""apt, dnf and yum, as far as packages for jobs need them.

install-distro-packages uses them in images, and the element cache-bindep while
images are built: so the cache is checked with what jobs do later.

For any Python from 3.4 on.
"""

import configparser
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent import futures

#: Where the repository files are with which dnf's or yum's cache was filled.
REPOSITORIES = "/var/lib/cache-bindep/repos.d"

#: Which of the image's repository files are only the build's: its element
#: yum-minimal takes them away at the end.
_OF_THE_BUILD = "dib-mirror-"

#: Where these repositories are said to be then, with their names.
_NOWHERE = "http://cache-bindep.invalid/"

#: What says where a repository is, and how it is reached.
_WHERE = (
    "baseurl",
    "metalink",
    "mirrorlist",
    "password",
    "proxy",
    "proxy_password",
    "proxy_username",
    "username",
)

_NOT_FETCHED = re.compile(
    "Failed to (fetch|download)|Unable to fetch|Errors? downloading"
    "|[Cc]annot (be )?download|invalid cache|Curl error|no local cache"
    "|no cache for"
)


#: Answers for each line of names whether installing them takes a file that is
#: not in the cache; with the older dnf as a library, because as a program it
#: takes seconds only to read what repositories have.
_WITH_DNF = """
import os, sys
import dnf
base = dnf.Base()
base.conf.read()
base.conf.substitutions.update_from_etc("/")
for setting in sys.argv[1:]:
    name, value = setting.split("=", 1)
    setattr(base.conf, name, [value] if name == "reposdir" else value)
base.conf.cacheonly = True
base.read_all_repos()
base.fill_sack()
for line in sys.stdin.read().splitlines():
    base.reset(goal=True)
    try:
        for name in line.split():
            base.install(name)
        base.resolve()
        files = [package.localPkg() for package in base.transaction.install_set]
        print("there" if all(map(os.path.exists, files)) else "lacking")
    except dnf.exceptions.Error:
        print("lacking")
"""


class Failed(Exception):
    """A package manager did not do what it was asked for; with its words."""


class Unreachable(Failed):
    """It knew what to fetch, and could not fetch all of it."""


def package_manager():
    """The package manager of this system; None when it is no known one."""
    if shutil.which("apt-get"):
        return Apt()
    for name, kind in (("dnf5", Dnf5), ("dnf", Dnf), ("yum", Yum)):
        if shutil.which(name):
            return kind(name)
    return None


class Apt:
    """apt-get and apt-cache.

    Packages are in /var/cache/apt/archives, indexes in /var/lib/apt/lists,
    unless apt's configuration says otherwise.
    """

    def refresh(self):
        """Fetch the indexes of the archives."""
        # Of an index that it cannot fetch, it warns, and goes on.
        said = self._get(["update"])
        if re.search(r"(?m)^W: (Failed to fetch|Some index files)", said):
            raise Unreachable(_last(said, "W: "))

    def ready(self):
        """Whether there is an index at all."""
        lists = self._directory("Dir::State::lists/d")
        return bool(glob.glob(lists + "*Packages*"))

    def unknown(self, names):
        """Those of names that no index has, and that no package provides."""
        if not names:
            return []
        known = set(_asked(["apt-cache", "pkgnames"]).split())
        doubtful = [name for name in names if name not in known]
        provided = self._provided(doubtful) if doubtful else set()
        return [name for name in doubtful if name not in provided]

    def _provided(self, names):
        found, name, providers = set(), "", False
        for line in _asked(["apt-cache", "showpkg"] + names).splitlines():
            if line.startswith("Package: "):
                name, providers = line[len("Package: "):].strip(), False
            elif line.startswith("Reverse Provides:"):
                providers = True
            elif providers and line.strip():
                found.add(name)
        return found

    def keep(self):
        """Nothing has to be kept beside the cache."""

    def missing(self, names):
        """Files that installing names would fetch."""
        said = self._get(["--print-uris", "install"] + names)
        return [
            line.split()[1]
            for line in said.splitlines()
            if line.startswith("'")
        ]

    def lacking(self, sets):
        """For each tuple of names, whether the cache has not all of it."""
        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda names: lacks(self, names), sets))

    def fetch(self, names):
        """Download names, and what they need and is not installed."""
        self._get(["--download-only", "install"] + names)

    def install(self, names, offline):
        """Install names; from the cache alone when offline."""
        options = ["--no-download"] if offline else []
        _run(self._command(options + ["install"] + names))

    def tidy(self):
        """Remove what differs from one time to the next and is of no use."""
        # With pkgcache.bin apt is quicker; it has times in it.
        _remove(
            [
                self._directory("Dir::Cache/d") + "*.bin",
                self._directory("Dir::Cache::archives/d") + "lock",
                self._directory("Dir::State::lists/d") + "lock",
            ]
        )

    def _directory(self, name):
        """One of apt's directories, with a slash at its end."""
        said = _asked(["apt-config", "shell", "found", name])
        path = re.sub("^found='(.*)'$", r"\1", said.strip())
        return path.rstrip("/") + "/"

    def _get(self, arguments):
        return _said(
            self._command(arguments),
            "E: |The following packages have unmet dependencies",
        )

    def _command(self, arguments):
        options = [
            "Dpkg::Options::=--force-confdef",
            "Dpkg::Options::=--force-confold",
            "Acquire::Retries=3",
        ]
        command = ["apt-get", "--assume-yes", "--quiet"]
        for option in options:
            command += ["--option", option]
        return command + arguments


class Dnf:
    """dnf before 5.  Packages and metadata are below /var/cache/dnf."""

    _CACHE = "/var/cache/dnf"
    _LIBRARY = _WITH_DNF
    _SETTINGS = ("keepcache=1", "cachedir=/var/cache/dnf")
    _PARTIAL = ["--setopt=strict=0"]
    _LEFT = (
        "/var/cache/dnf/*.solv*",
        "/var/cache/dnf/*.json",
        "/var/cache/dnf/packages.db",
        "/var/cache/dnf/*_lock.pid",
    )
    _METADATA = ("/var/cache/dnf/*/repodata/repomd.xml",)

    def __init__(self, program):
        self._program = program
        self._refreshed = False

    def refresh(self):
        """Fetch the metadata of the repositories."""
        self._do(["makecache"])
        self._refreshed = True

    def keep(self):
        """Keep the repository files, for which alone the cache is of use.

        Of the build's own, the image must not know where they are.  They get a
        URL that leads nowhere, and their part of the cache gets the name that
        it has by that one.
        """
        if os.path.isdir(REPOSITORIES):
            shutil.rmtree(REPOSITORIES)
        os.makedirs(REPOSITORIES)
        for file in sorted(glob.glob("/etc/yum.repos.d/*.repo")):
            if os.path.basename(file).startswith(_OF_THE_BUILD):
                self._keep_elsewhere(file)
            else:
                shutil.copy(file, REPOSITORIES)
        self._refreshed = False

    def _keep_elsewhere(self, file):
        found = configparser.RawConfigParser(strict=False)
        found.read(file, encoding="utf-8")
        for name in found.sections():
            for option in _WHERE:
                found.remove_option(name, option)
            found.set(name, "baseurl", _NOWHERE + name)
            self._move_cache(name, _NOWHERE + name)
        path = os.path.join(REPOSITORIES, os.path.basename(file))
        with open(path, "w", encoding="utf-8") as kept:
            found.write(kept, space_around_delimiters=False)

    def _move_cache(self, name, url):
        """What dnf has of a repository has a digest of its URL in its name."""
        digest = hashlib.sha256(url.encode()).hexdigest()[:16]
        target = os.path.join(self._CACHE, "%s-%s" % (name, digest))
        pattern = os.path.join(glob.escape(self._CACHE), glob.escape(name))
        found = [
            path
            for path in glob.glob(pattern + "-" + "[0-9a-f]" * 16)
            if path != target
        ]
        if found:
            # Of several, others were fetched from elsewhere before.
            newest = max(found, key=lambda path: os.stat(path).st_mtime)
            shutil.rmtree(target, ignore_errors=True)
            shutil.move(newest, target)

    def ready(self):
        """Whether there is metadata at all."""
        return any(glob.glob(pattern) for pattern in self._METADATA)

    def unknown(self, names):
        """Those of names that no repository has, and that nothing provides."""
        if not names:
            return []
        where = [] if self._refreshed else self._offline()
        arguments = ["--assumeno"] + where + ["install"] + self._PARTIAL
        said = _output(self._command(arguments + names))[1]
        told = re.findall(
            r"(?:No match for argument: |No package )(\S+)", said
        )
        return [name for name in names if name in told]

    def missing(self, names):
        """Nothing when all is in the cache, else names: more is not known."""
        try:
            self._do(self._offline() + ["install", "--downloadonly"] + names)
        except Unreachable:
            return names
        return []

    def lacking(self, sets):
        """For each tuple of names, whether the cache has not all of it."""
        answers = self._ask_library(sets) if self._LIBRARY else []
        if len(answers) == len(sets):
            return [answer == "lacking" for answer in answers]
        return [lacks(self, names) for names in sets]

    def _ask_library(self, sets):
        settings = list(self._SETTINGS) + ["logdir=" + tempfile.gettempdir()]
        if self._kept():
            settings.append("reposdir=" + REPOSITORIES)
        asked = "".join(" ".join(names) + "\n" for names in sets)
        with subprocess.Popen(
            [sys.executable, "-BIc", self._LIBRARY] + settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        ) as child:
            said = child.communicate(asked.encode("utf-8"))[0]
        found = said.decode("utf-8", "replace").splitlines()
        return [line for line in found if line in ("there", "lacking")]

    def fetch(self, names):
        """Download names, and what they need and is not installed."""
        self._do(["install", "--downloadonly"] + names)

    def install(self, names, offline):
        """Install names; from the cache alone when offline."""
        options = ["--assumeyes"] + (self._offline() if offline else [])
        _run(self._command(options + ["install"] + names))

    def tidy(self):
        """Remove what differs from one time to the next and is of no use."""
        _remove(self._LEFT)

    def _offline(self):
        """Options for the cache as it was filled.

        The image's own repository files may be others by now, unless it has
        just been filled with them.
        """
        return ["--cacheonly"] + (
            ["--setopt=reposdir=" + REPOSITORIES] if self._kept() else []
        )

    def _kept(self):
        return not self._refreshed and glob.glob(REPOSITORIES + "/*.repo")

    def _do(self, arguments):
        return _said(self._command(["--assumeyes"] + arguments), "Error:")

    def _command(self, arguments):
        settings = self._SETTINGS + ("logdir=" + tempfile.gettempdir(),)
        options = ["--setopt=" + setting for setting in settings]
        return [self._program] + options + arguments


class Dnf5(Dnf):
    """dnf from 5 on.  Packages and metadata are below /var/cache/libdnf5."""

    _CACHE = "/var/cache/libdnf5"
    _LIBRARY = ""
    # It reads the file of the older dnf, in which a cachedir may be set.
    _SETTINGS = (
        "keepcache=1",
        "cachedir=/var/cache/libdnf5",
        "system_cachedir=/var/cache/libdnf5",
    )
    # Options of its command install; it takes them nowhere else.
    _PARTIAL = ["--skip-unavailable", "--skip-broken"]
    _LEFT = (
        "/var/cache/libdnf5/*/solv",
        "/var/cache/libdnf5/*.toml",
        "/var/cache/libdnf5/*/attributes",
    )
    _METADATA = ("/var/cache/libdnf5/*/repodata/repomd.xml",)


class Yum(Dnf):
    """yum before it became dnf.  Its packages are below /var/cache/yum."""

    _LIBRARY = ""
    _SETTINGS = ("keepcache=1",)
    _PARTIAL = []
    # Its usual cachedir ends in $basearch/$releasever.
    _LEFT = (
        "/var/cache/yum/*/*/*/*.sqlite-journal",
        "/var/cache/yum/*/*/timedhosts*",
        "/var/cache/yum/*/*.sqlite-journal",
        "/var/cache/yum/timedhosts*",
    )
    _METADATA = (
        "/var/cache/yum/*/*/*/repomd.xml",
        "/var/cache/yum/*/repomd.xml",
    )

    def _move_cache(self, name, url):
        """There are no URLs in the names of what yum has."""

    def _do(self, arguments):
        status, said = _output(self._command(["--assumeyes"] + arguments))
        # yum takes a download that is only that for a failure.
        if status and "Download Only" not in said:
            raise _failure(said, "Error:")
        return said

    def _command(self, arguments):
        settings = self._SETTINGS + (
            "logfile=%s/yum.log" % tempfile.gettempdir(),
        )
        options = ["--setopt=" + setting for setting in settings]
        return [self._program] + options + arguments


def lacks(manager, names):
    """Whether a set of names needs more than is in the cache."""
    try:
        return bool(manager.missing(list(names)))
    except Failed:
        # Why, fetching will say.
        return True


def _environment():
    return dict(os.environ, LC_ALL="C", DEBIAN_FRONTEND="noninteractive")


def _asked(command):
    """What a command answers, its complaints aside."""
    return _output(command, errors=subprocess.DEVNULL)[1]


def _output(command, errors=subprocess.STDOUT):
    """The exit status of a command, and all that it prints."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=_environment(),
    ) as child:
        said = child.communicate()[0].decode("utf-8", "replace")
        return child.returncode, said


def _said(command, mark):
    """What a command prints; when it fails, Failed with that from mark on."""
    status, said = _output(command)
    if status:
        raise _failure(said, mark)
    return said


def _failure(said, mark):
    kind = Unreachable if _NOT_FETCHED.search(said) else Failed
    return kind(_last(said, mark))


def _run(command):
    """Run a command whose output is for the reader."""
    status = subprocess.call(
        command, stdin=subprocess.DEVNULL, env=_environment()
    )
    if status:
        raise Failed(
            "%s ended with status %d" % (os.path.basename(command[0]), status)
        )


def _last(said, mark):
    """What is wrong: the lines from the first with mark on, else the last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    marked = [
        number for number, line in enumerate(lines) if re.match(mark, line)
    ]
    text = (
        " ".join(lines[marked[0]:][:4])
        if marked
        else (lines or ["it printed nothing"])[-1]
    )
    return re.sub(r"^(E|W|Error): *", "", text)


def _remove(patterns):
    for pattern in patterns:
        for path in glob.glob(pattern):
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
