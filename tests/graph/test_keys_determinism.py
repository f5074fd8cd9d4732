"""Nothing of the host or of the moment is in a key: the same elements have the same keys for everybody."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from imgc.engine.hooks_tree import materialise
from imgc.graph import compile_plan, keys, lower
from imgc.graph.modes import Modes
from imgc.graph.plan import dib_directory

ROOT = Path(__file__).parents[2]

FILES = {
    "alpha/root.d/10-base": '#!/bin/sh\ntouch "$TARGET_ROOT/base"\n',
    "alpha/extra-data.d/20-copy": '#!/bin/sh\ncp "$TMP_HOOKS_PATH/data/settings" "$TMP_MOUNT_PATH/etc"\n',
    "alpha/extra-data.d/30-all": '#!/bin/sh\nfind "$TMP_HOOKS_PATH" | sort\n',
    "alpha/data/settings": "x=1\n",
    "alpha/environment.d/10-alpha": "export ALPHA=1\n",
    "beta/install.d/10-static": '#!/bin/sh\ncp -r "$(dirname "$0")/../static/." /\n',
    "beta/install.d/50-beta": "#!/bin/sh\nenv\n",
    "beta/static/etc/beta.d/conf": "beta\n",
}

#: Compiles the elements below argv[1], named in argv[2], and a shipped platform; prints all keys.
COMPILE = """
import json, os, sys, time
sys.path.insert(0, sys.argv[3])
if "FORBID_CLOCK" in os.environ:
    def clock(*_):
        raise SystemExit("the clock was read")
    import networkx
    for name in ("time", "time_ns", "localtime", "gmtime", "strftime", "ctime", "asctime"):
        setattr(time, name, clock)
from imgc import spec
from imgc.graph import compile_plan, keys, lower
from imgc.spec.model import Base, Disk, Initramfs, Output, Platform
platform = Platform(
    "small", "", Base("none", "none", "1", "amd64", "default", None, False), tuple(sys.argv[2].split()),
    (sys.argv[1],), (("DIB_X", "1"),), (), Initramfs("cloud", ()),
    Disk(None, 0, "ext4", "root", "gpt", "bios", "", 5), (Output("tar", "tar", (("compression", "none"),)),), "x",
)
found = keys(lower(compile_plan(platform)))
shipped = spec.load("debian-bookworm", specs_dir=os.path.join(sys.argv[3], "specs"), host_environment={})
found.update(keys(lower(compile_plan(shipped))))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def elements(tmp_path_factory):
    """A directory of elements that everybody may read, checked out with the usual umask."""
    path = tmp_path_factory.mktemp("elements")
    for directory in (path.parent, path):
        directory.chmod(0o755)
    write(path, {"system/element-provides": "operating-system\n", **FILES})
    return path


def write(path: Path, files: dict[str, str]) -> None:
    for dest, text in files.items():
        file = path / dest
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755 if text.startswith("#!") else 0o644)
    for directory in [path, *(one for one in path.rglob("*") if one.is_dir())]:
        directory.chmod(0o755)


def compiled(path, *, names="system alpha beta", cwd="/", before=(), umask=None, **environment):
    done = subprocess.run(
        [*before, sys.executable, "-c", COMPILE, path, names, str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        umask=-1 if umask is None else umask,
        env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def reference(elements):
    return compiled(elements, PYTHONHASHSEED="0", LC_ALL="C")


@pytest.mark.parametrize(
    "difference",
    [
        {"PYTHONHASHSEED": "1"},
        {"PYTHONHASHSEED": "4711"},
        {"LC_ALL": "de_DE.UTF-8", "LANG": "tr_TR.UTF-8", "LC_COLLATE": "et_EE.UTF-8"},
        {"TZ": "Pacific/Kiritimati"},
        {"HOME": "/nowhere", "USER": "somebody", "LOGNAME": "somebody", "TERM": "dumb"},
        {
            "http_proxy": "http://proxy.test:1",
            "DIB_RELEASE": "other",
            "DIB_X": "2",
            "ELEMENTS_PATH": "/x",
            "ARCH": "x",
        },
        {"SOURCE_DATE_EPOCH": "1", "TMPDIR": "/var/tmp", "XDG_CACHE_HOME": "/nowhere"},
        {"FORBID_CLOCK": "1"},
    ],
    ids=lambda difference: next(iter(difference)),
)
def test_the_environment_of_the_host_is_in_no_key(elements, reference, difference):
    assert compiled(elements, **difference) == reference


def test_the_directory_and_the_umask_of_the_caller_are_in_no_key(elements, reference, tmp_path):
    assert compiled(elements, cwd=tmp_path, umask=0o077) == reference


def test_where_elements_lie_and_when_they_were_written_is_in_no_key(elements, reference, tmp_path):
    copy = tmp_path / "deeper/copy"
    shutil.copytree(elements, copy)
    for file in copy.rglob("*"):
        os.utime(file, (0, 0))
    assert compiled(copy) == reference


def test_the_order_in_which_elements_are_named_is_in_no_key(elements, reference):
    assert compiled(elements, names="beta alpha system") == reference


def test_who_compiles_is_in_no_key(elements, reference):
    # Root becomes somebody else, who may read this Python wherever root has it; anybody else becomes root.
    reads = [option for kind in ("inh", "ambient") for option in (f"--{kind}-caps", "+dac_read_search")]
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *reads)
    user = nobody if os.getuid() == 0 else ("unshare", "--map-root-user")
    who = subprocess.run([*user, "id", "-u"], capture_output=True, text=True, check=True).stdout
    assert int(who) != os.getuid()
    assert compiled(elements, before=user, HOME="/nonexistent") == reference


# --- modes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o027, 0o077, 0o007, 0o000])
def test_a_checkout_with_another_umask_has_the_same_modes(umask):
    modes = Modes(0o777 & ~umask)
    assert modes.canonical(0o666 & ~umask) == 0o644
    assert modes.canonical(0o777 & ~umask) == 0o755


@pytest.mark.parametrize("mode", [0o600, 0o440, 0o640, 0o4755, 0o1777, 0o700, 0o664])
def test_a_mode_that_was_given_on_purpose_stays(mode):
    assert Modes(0o755).canonical(mode) == mode


def checked_out(elements: Path, to: Path, umask: int) -> Path:
    """A copy as git makes it under a umask."""
    shutil.copytree(elements, to)
    for path in [to, *to.rglob("*")]:
        whole = 0o777 if path.is_dir() or path.stat().st_mode & 0o100 else 0o666
        path.chmod(whole & ~umask)
    return to


def laid_out(base: Path) -> dict[str, int]:
    """The mode of everything in a fresh state, by path."""
    return {str(path.relative_to(base)): stat.S_IMODE(path.lstat().st_mode) for path in base.rglob("*")}


@pytest.mark.parametrize("umask", [0o077, 0o002, 0o027])
def test_a_checkout_and_a_build_under_another_umask_give_the_same_keys_and_the_same_tree(
    elements, tmp_path, base_platform, umask
):
    found = []
    for number, mask in enumerate((0o022, umask)):
        path = checked_out(elements, tmp_path / str(number), mask)
        platform = replace(base_platform, elements=("system", "alpha", "beta"), element_paths=(str(path),))
        (tmp_path / "shipped").mkdir(exist_ok=True)
        plan = compile_plan(platform, elements_dir=tmp_path / "shipped")
        base = tmp_path / f"base{number}"
        before = os.umask(mask)
        try:
            base.mkdir()
            materialise(plan, base, dib_directory() / "lib")
        finally:
            os.umask(before)
        found.append((keys(lower(plan)), laid_out(base)))
    # A hook that takes everything may also look at the elements' own directories, where modes are what they are.
    everything = list(found[0][0]).index("small/extra-data.d/30-all")
    assert list(found[0][0].values())[:everything] == list(found[1][0].values())[:everything]
    assert found[0][1] == found[1][1]
    assert found[0][1]["hooks/static/etc/beta.d"] == 0o755
