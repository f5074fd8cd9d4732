"""The program git: how it is run on repositories of the cache and on the network, and what it says when it fails.

On the network it sees the host's own settings (proxies, certificates, credentials); in a repository of the cache it
can be kept from them, so that what it makes is the same for everybody.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from imgc import process

#: Seconds of the first pause between tries; each further one is twice as long.
PAUSE = 1.0

_TRIES = 3

#: What git prints when trying again may help.
_PASSING = re.compile(
    r"could not resolve host|timed? ?out|connection (was )?(reset|refused|closed)|early eof|hung up|rpc failed"
    r"|error: 5\d\d|returned error: (429|5\d\d)|gnutls|unexpected disconnect|network is unreachable",
    re.IGNORECASE,
)

#: Settings of the host by which git reaches the network.
_PASSED_ON = re.compile(
    r"(?i:(http|https|ftp|no|all)_proxy)|(SSL_CERT|GIT_SSL|GIT_SSH|GIT_CONFIG|SSH_AUTH)_?\w*"
)

_SETTINGS = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "GIT_HTTP_LOW_SPEED_LIMIT": "1000",
    "GIT_HTTP_LOW_SPEED_TIME": "60",
}

#: What git has to be told so that it does nothing of its own accord.
_QUIET = ("-c", "gc.auto=0", "-c", "maintenance.auto=false")


def git(
    repository: Path, *arguments: str, stdin: str | None = None, check: bool = False
) -> process.Completed:
    """Run git in a repository of the cache."""
    argv = ["git", *_QUIET, "-C", str(repository), *arguments]
    return process.run(argv, env=environment(), stdin=stdin, check=check)


def git_alone(
    repository: Path,
    *arguments: str,
    stdin: str | None = None,
    check: bool = True,
    output: int | None = None,
    extra: Mapping[str, str] | None = None,
) -> process.Completed:
    """Run git on the bare repository at ``repository``, of whichever owner, with no settings of this host or user.

    What it writes has the modes 644 and 755.  ``output`` is a file descriptor (of a file) that takes git's standard
    output as it is, bytes and all; what is returned has only the messages then.  ``extra`` are further variables of
    its environment.
    """
    argv = ["git", *_QUIET, f"--git-dir={repository}", *arguments]
    to = "" if output is None else f" >/dev/fd/{output}"
    argv = ["sh", "-c", f'umask 022 && exec "$@"{to}', "sh", *argv]
    # An empty HOME would do for the user's settings, but names of users are looked up there as well.
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_ATTR_NOSYSTEM": "1"}
    env = process.clean_environment({**_SETTINGS, **alone, **(extra or {})})
    return process.run(argv, env=env, stdin=stdin, check=check, pass_fds=() if output is None else (output,))


def git_on_network(arguments: Sequence[str], timeout: float | None = None) -> process.Completed:
    """Run git, again when what it failed of may pass.  ``timeout`` is in seconds, for each try."""
    argv = ["git", *_QUIET, *arguments]
    for number in range(_TRIES):
        done = process.run(argv, env=environment(), timeout=timeout, check=False)
        if not done.status or not _PASSING.search(done.output):
            break
        if number < _TRIES - 1:
            time.sleep(PAUSE * 2**number)
            process.INTERRUPT.check()
    return done


def environment() -> dict[str, str]:
    """The environment of a git that may use the network as this host's users do."""
    passed_on = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    return process.clean_environment({**passed_on, **_SETTINGS})


def last_words(done: process.Completed) -> str:
    """The line of git's output that says what is wrong."""
    lines = [line for line in done.output.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "error:"))]
    return (telling or lines or [f"exit status {done.status}"])[0].strip().rstrip(".") + "."
