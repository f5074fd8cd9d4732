"""Builds by an ordinary user: in a user namespace, with the ids that /etc/subuid and /etc/subgid give them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.integration.project import HERE, Project, leftovers, owners_and_modes
from tests.integration.users import may_make_user_namespaces, ordinary_user

#: What needs rights that an ordinary user lacks outside a user namespace.
OWNERS = """\
touch /etc/plain /etc/setuid /etc/shared
chown 1000:1000 /etc/plain
chown 65534:65534 /etc/shared
chmod 4755 /etc/setuid
mkdir -m 2775 /srv/group 2>/dev/null || mkdir -p -m 2775 /srv /srv/group
ln /etc/plain /etc/hardlink
rm /etc/os-release
rm -r /home && mkdir /home
"""


def prepared(directory: Path) -> Project:
    """The same project, wherever it is."""
    project = Project(directory)
    project.hook(
        "one/root.d/50-one", "sudo mount -t sysfs none $TARGET_ROOT/sys\nsudo umount $TARGET_ROOT/sys"
    )
    project.hook("one/install.d/50-one", OWNERS + "id -u; cat /proc/self/uid_map | wc -l")
    project.hook("one/cleanup.d/50-one", "sudo touch $TARGET_ROOT/etc/by-sudo; sudo rm -r $TARGET_ROOT/mnt")
    # Written now: the user may not write it later.
    project.command()
    return project


def test_the_same_image_as_roots(tmp_path: Path, home: Path) -> None:
    (tmp_path / "root").mkdir()
    mine = prepared(tmp_path / "root")
    expected = mine.build()
    assert expected.status == 0, expected.errors

    theirs = prepared(home)
    with ordinary_user(home, subordinate_ids=True) as theirs.prefix:
        first = theirs.build()
        if not may_make_user_namespaces(theirs.prefix):
            assert first.status == 1
            assert "E303" in first.errors and "sysctl" in first.errors
            return
        assert first.status == 0, first.errors
        assert theirs.build().ran == []
        theirs.hook("one/post-install.d/50-one", f"echo {HERE}; sleep 3333")
        running = theirs.start()
        running.wait_for_hook()
        running.child.kill()
        running.end()
        theirs.hook("one/post-install.d/50-one", "true")
        again = theirs.build()
        assert again.status == 0, again.errors
        assert again.ran[0] == "post-install.d/50-one"
        assert list((theirs.cache / "work").iterdir()) == []
        assert leftovers(home) == []
        assert theirs.imgc("clean", "--all").returncode == 0
        assert not list((theirs.cache / "layers").iterdir())
    tree = owners_and_modes(mine.tree())
    assert owners_and_modes(theirs.tree()) == tree
    assert tree["etc/plain"][:2] == (1000, 1000) and tree["etc/shared"][:2] == (65534, 65534)
    assert tree["etc/setuid"][2] == 0o4755
    assert theirs.tar.stat().st_uid == home.stat().st_uid


def test_without_subordinate_ids_it_says_what_is_missing(home: Path) -> None:
    project = prepared(home)
    with ordinary_user(home, subordinate_ids=False) as project.prefix:
        refused = project.build()
        user = home.owner()
    assert refused.status == 1
    assert refused.errors.count("E303") == 1
    assert re.search(
        rf"User {user} cannot build here: .*/etc/subuid gives it no range of 65535 ids", refused.errors
    )
    assert "/etc/subgid gives it no range of 65535 ids" in refused.errors
    assert re.search(rf"usermod --add-subuids \d+-\d+ {user}", refused.errors)
    assert re.search(rf"usermod --add-subgids \d+-\d+ {user}", refused.errors)
    assert refused.ran == []


def test_checking_and_planning_need_no_rights_at_all(home: Path) -> None:
    project = prepared(home)
    with ordinary_user(home, subordinate_ids=False) as project.prefix:
        for command in (["check"], ["plan", "tiny"], ["graph", "tiny"], ["list"]):
            done = project.imgc(*command)
            assert done.returncode == 0, (command, done.stderr)
