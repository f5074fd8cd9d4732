"""What a program finds in the sandbox, what it can do to the host from there, and what is left of it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgc import certificates
from imgc.engine import sandbox
from imgc.engine.sandbox import Payload, State, Target
from imgc.errors import ImgcError
from tests.engine.conftest import PATH, Room
from tests.integration.project import leftovers

ROOT = Path(__file__).resolve().parents[2]
ROOTFS = f"{sandbox.BUILD}/mnt"


# --- around the build --------------------------------------------------------------------------------------------


def test_the_host_can_be_read_and_not_written(room: Room) -> None:
    places = "/ /etc /usr /var /home /root /sys"
    outcome = room.sh(
        f"cat /etc/hostname >/dev/null; for d in {places}; do touch $d/imgc-test && echo $d; done"
    )
    assert outcome.status == 1
    assert all("Read-only" in line or "ermission" in line for line in room.lines if line != "/")
    assert not Path("/imgc-test").exists()
    assert room.sh("mkdir /etc/imgc-test 2>&1").status == 1


def test_tmp_run_and_home_are_ones_own(room: Room, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    script = f"ls -A /tmp /run /var/tmp $HOME; ls {tmp_path} 2>/dev/null | wc -l\n"
    script += "touch /tmp/one /var/tmp/two $HOME/three"
    assert room.sh(script, env={"HOME": sandbox.HOME}).status == 0
    listed = [line for line in room.lines if line and not line.endswith(":")]
    assert listed[-1] == "0"
    # A host may keep its resolv.conf below /run.
    assert set(listed[:-1]) <= {"systemd", "resolvconf", "NetworkManager"}
    assert not Path("/tmp/one").exists()
    room.sh("ls -A /tmp /var/tmp $HOME | grep -v : | grep . || echo empty", env={"HOME": sandbox.HOME})
    assert room.lines == ["empty"], "and new for each run"


def test_dev_is_minimal(room: Room) -> None:
    room.sh(
        "ls /dev; ls /dev/shm /dev/pts; echo x >/dev/null; head -c 3 /dev/zero | wc -c; [ -p /dev/stdin ]"
    )
    assert set(room.lines[: room.lines.index("/dev/pts:")]) - {""} == {
        *("fd", "full", "imgc", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout"),
        *("tty", "urandom", "zero"),
    }
    assert "3" in room.lines


def test_only_its_own_processes(room: Room) -> None:
    room.sh("ls /proc | grep -c '^[0-9]*$'; cat /proc/1/comm; echo $$")
    assert int(room.lines[0]) <= 6
    assert room.lines[2] == "2"


def test_signals_and_umask_are_as_at_login(room: Room) -> None:
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        room.sh("grep -E 'SigBlk|SigIgn' /proc/self/status; umask")
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert room.lines == ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000", "0022"]


def test_nothing_of_the_hosts_environment(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy.example:1")
    room.sh("/usr/bin/env", env={"MINE": "1"})
    names = {line.partition("=")[0] for line in room.lines}
    assert "MINE=1" in room.lines and "https_proxy=http://proxy.example:1" in room.lines
    allowed = {
        *certificates.VARIABLES,
        "https_proxy",
        "PATH",
        "MINE",
        "PWD",
        "SHLVL",
        "_",
        "IMGC_USER_NAMESPACE",
        "IMGC_OFFERS",
    }
    assert names <= allowed
    # What the payload says wins.
    room.sh("echo $https_proxy", env={"https_proxy": "other"})
    assert room.lines == ["other"]


def test_the_hosts_certificates(
    room: Room, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("the host's own authority\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    room.sh("cat $SSL_CERT_FILE $CURL_CA_BUNDLE")
    assert room.lines == ["the host's own authority"] * 2
    upper, work = room.layer("one")
    state = State((str(base),), str(upper), str(work))
    script = "cat $SSL_CERT_FILE $APT_CONFIG"
    room.sh(script, state=state, target=Target(system=True), chroot=ROOTFS)
    assert room.lines == ["the host's own authority", f'Acquire::https::CAInfo "{sandbox.CA_BUNDLE}";']
    assert not list(upper.rglob("*.crt"))


def test_statuses(room: Room) -> None:
    assert room.sh("exit 0").status == 0
    assert room.sh("exit 42").status == 42
    assert room.sh("kill -9 $$").status == 128 + 9
    assert room.sh("kill -TERM $$").status == 128 + 15
    missing = room.sandbox.run(Payload(("/no/such/program",), {}), room.scratch(), on_line=room.lines.append)
    assert missing.status == 127
    assert "/no/such/program" in room.lines[-1]


def test_syncs_cost_nothing(room: Room) -> None:
    """Only a call that is not made succeeds on a descriptor that is not open."""
    script = (
        "import ctypes, os; c = ctypes.CDLL(None); os.sync();"
        "print(c.fsync(-1), c.fdatasync(-1), c.syncfs(-1), c.sync_file_range(-1, 0, 0, 0), c.write(-1, b'', 1))"
    )
    run = f'{sys.executable} -I -S -c "{script}"'
    room.sh(run)
    assert room.lines == ["0 0 0 0 -1"]
    room.sh(run, ignore_syncs=False)
    assert room.lines == ["-1 -1 -1 -1 -1"]


def test_left_processes_are_named_and_ended(room: Room, tmp_path: Path) -> None:
    started = time.monotonic()
    outcome = room.sh("trap '' HUP TERM; setsid sleep 3333 & sleep 3333 & sleep 0.2; exit 3")
    assert outcome.status == 3
    assert outcome.processes == ("sleep", "sleep")
    assert time.monotonic() - started < 10
    assert leftovers(tmp_path) == []


def test_paths_may_be_awkward(tmp_path: Path, base: Path) -> None:
    """Spaces, and what the options of an overlay take for separators."""
    room = Room(tmp_path / 'a b:c,d\\e"f')
    upper, work = room.layer("one,two:three")
    state = State((str(base),), str(upper), str(work))
    assert room.sh(f"echo hello >{ROOTFS}/etc/new", state=state).status == 0
    assert (upper / "mnt/etc/new").read_text() == "hello\n"


def test_python_below_a_hidden_directory_is_seen(tmp_path: Path) -> None:
    """Elements that are below /tmp, or a virtualenv that is, stay visible at their own paths."""
    (tmp_path / "elements").mkdir()
    (tmp_path / "elements/file").write_text("seen\n")
    room = Room(tmp_path / "room", readable=(str(tmp_path / "elements"),))
    room.sh(f"cat {tmp_path}/elements/file; touch {tmp_path}/elements/new || echo read-only")
    assert room.lines[0] == "seen" and room.lines[-1] == "read-only"


def test_a_sandbox_that_cannot_be_made(room: Room) -> None:
    with pytest.raises(ImgcError) as raised:
        room.sh("true", state=State(("/nonexistent/layer",), str(room.directory), "/nonexistent/work"))
    assert raised.value.code == "E303"
    assert "mount overlay" in raised.value.message
    assert "sandbox_init.py" in raised.value.detail


def test_imgc_killed(tmp_path: Path) -> None:
    """Whatever the sandbox runs ends with the process that made it."""
    code = (
        "import sys; from pathlib import Path; from imgc.engine.sandbox import Payload, Sandbox\n"
        "work = Path(sys.argv[1]) / 'work'; work.mkdir()\n"
        "payload = Payload(('bash', '-c', 'setsid sleep 3333 & echo here; sleep 3333'), {'PATH': '"
        + PATH
        + "'})\n"
        "Sandbox(work.parent).run(payload, work, on_line=lambda line: print(line, flush=True))\n"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"here\n"
        assert len(leftovers(tmp_path)) >= 4
        child.kill()
    until = time.monotonic() + 5
    while leftovers(tmp_path) and time.monotonic() < until:
        time.sleep(0.02)
    assert leftovers(tmp_path) == []


def test_control_c_in_an_interactive_shell(tmp_path: Path, base: Path) -> None:
    """It is for the program in the foreground of the shell, which goes on."""
    (tmp_path / "work").mkdir()
    (tmp_path / "upper").mkdir()
    (tmp_path / "overlay").mkdir()
    child, terminal = pty.fork()
    if not child:
        state = State((str(base),), str(tmp_path / "upper"), str(tmp_path / "overlay"))
        payload = Payload(
            ("/bin/bash", "--norc", "-i"), {"PATH": PATH, "TERM": "dumb", "PS1": "> "}, chroot=ROOTFS
        )
        signal.signal(signal.SIGINT, lambda _number, _frame: None)
        room = sandbox.Sandbox(tmp_path / "downloads")
        os._exit(room.interact(payload, tmp_path / "work", state=state, target=Target(system=True)))
    try:
        read_until(terminal, b"> ")
        os.write(terminal, b"echo be''gun; sleep 3333\n")
        read_until(terminal, b"begun")
        time.sleep(0.2)
        os.write(terminal, b"\x03")
        os.write(terminal, b"echo still al''ive\n")
        read_until(terminal, b"still alive")
        # A shell without job control leaves imgc and all it started in the foreground.
        os.killpg(child, signal.SIGINT)
        time.sleep(0.2)
        os.write(terminal, b"echo and al''ive\n")
        read_until(terminal, b"and alive")
        os.write(terminal, b"exit 7\n")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    finally:
        os.close(terminal)


def read_until(terminal: int, text: bytes) -> None:
    """Read what a terminal shows until ``text`` comes; the terminal's end is an error."""
    seen = b""
    while text not in seen:
        seen += os.read(terminal, 4096)


# --- the tree ----------------------------------------------------------------------------------------------------


def test_only_changes_are_written(room: Room, base: Path) -> None:
    upper, work = room.layer("one")
    state = State((str(base),), str(upper), str(work))
    script = "echo new >/etc/new; rm /etc/passwd; rm -r /home; mkdir /home; ln /etc/new /etc/link"
    assert room.sh(script, state=state, target=Target(system=True), chroot=ROOTFS).status == 0
    changed = sorted(str(path.relative_to(upper)) for path in upper.rglob("*"))
    # proc, dev and sys are not among them: those of the run are mounted over the tree's own.
    assert changed == ["mnt", "mnt/etc", "mnt/etc/link", "mnt/etc/new", "mnt/etc/passwd", "mnt/home"]
    assert (base / "mnt/etc/passwd").exists()
    # The next run sees the layers together, and cannot write without a layer of its own.
    room.sh(f"cd {ROOTFS}; cat etc/link; ls etc/passwd home; touch x", state=State((str(upper), str(base))))
    assert room.lines[0] == "new" and "home:" in room.lines
    assert [line.partition(": ")[2] for line in room.lines if ": " in line] == [
        *("cannot access 'etc/passwd': No such file or directory", "cannot touch 'x': Read-only file system"),
    ]


def test_layers_together(room: Room, base: Path) -> None:
    layers = [str(base)]
    for number in range(120):
        upper = room.directory / f"layer {number}"
        (upper / "mnt/etc").mkdir(parents=True)
        (upper / "mnt/etc/order").write_text(f"{number}\n")
        (upper / f"mnt/etc/of{number}").touch()
        layers.insert(0, str(upper))
    script = f"cat {ROOTFS}/etc/order; ls {ROOTFS}/etc | grep -c '^of[0-9]'; touch {ROOTFS}/etc/x || echo read-only"
    room.sh(script, state=State(tuple(layers)))
    assert room.lines[:2] == ["119", "120"] and room.lines[-1] == "read-only"


def test_what_is_mounted_in_the_tree(room: Room, base: Path) -> None:
    def look(target: Target, **options: str) -> list[str]:
        upper, work = room.layer(f"layer {next(room.numbers)}")
        state = State((str(base),), str(upper), str(work))
        room.sh(
            f"grep -o ' {ROOTFS}/[^ ]*' /proc/mounts | sort -u; ls {ROOTFS} | wc -l",
            state=state,
            target=target,
        )
        return [line.strip().removeprefix(ROOTFS) for line in room.lines]

    assert look(Target())[:-1] == []
    assert {"/proc", "/dev", "/sys", "/dev/null"} <= set(look(Target(system=True)))
    assert look(Target(hooks=True))[:-1] == ["/tmp/in_target.d"]
    assert look(Target(built=True))[-1] == "0"


def test_mounts_are_recorded_and_made_again(room: Room, base: Path) -> None:
    upper, work = room.layer("one")
    state = State((str(base),), str(upper), str(work))
    first = room.sh(
        f"set -e; mkdir -p {sandbox.CACHE}/packages {ROOTFS}/var/packages; echo kept >{sandbox.CACHE}/packages/file\n"
        f"mount --bind {sandbox.CACHE}/packages {ROOTFS}/var/packages\n"
        f"mount -t tmpfs none {ROOTFS}/mnt; mkdir '{ROOTFS}/a b'; mount --bind {sandbox.BUILD}/out '{ROOTFS}/a b'",
        state=state,
        target=Target(system=True),
    )
    assert first.status == 0, room.lines
    assert sorted((one["type"], one["source"], one["target"]) for one in first.mounts) == [
        ("bind", f"{sandbox.BUILD}/out", "a b"),
        ("bind", f"{sandbox.CACHE}/packages", "var/packages"),
        ("tmpfs", "none", "mnt"),
    ]
    above, work = room.layer("two")
    state = State((str(upper), str(base)), str(above), str(work))
    second = room.sh(
        "cat /var/packages/file; echo x >/mnt/x; grep -c -E ' (/mnt|/a.040b) ' /proc/mounts",
        state=state,
        target=Target(system=True, replay=first.mounts),
        chroot=ROOTFS,
    )
    assert room.lines == ["kept", "2"]
    assert sorted(map(str, second.mounts)) == sorted(map(str, first.mounts))
    assert not (above / "mnt/mnt").exists(), "what is written to a mount is in no layer"


def test_name_servers_of_a_cached_layer_are_brought_up_to_date(
    room: Room, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upper, _ = room.layer("one")
    (upper / "mnt/etc").mkdir(parents=True)
    for path in ("mnt/etc/resolv.conf", "resolv.conf"):
        (upper / path).write_text("nameserver 192.0.2.1\n")
    monkeypatch.setattr(sandbox.host, "resolv_conf", lambda: "nameserver 192.0.2.2\n")

    def look(name: str) -> list[str]:
        above, work = room.layer(name)
        state = State((str(upper), str(base)), str(above), str(work))
        room.sh("cat /etc/resolv.conf", state=state, target=Target(system=True), chroot=ROOTFS)
        return room.lines

    assert look("two") == ["nameserver 192.0.2.2"]
    # A hook has put its own there in the meantime: that stays.
    (upper / "mnt/etc/resolv.conf").write_text("nameserver 192.0.2.3\n")
    assert look("three") == ["nameserver 192.0.2.3"]


def test_removing_trees(room: Room, base: Path, tmp_path: Path) -> None:
    """Directories that nobody may enter and whiteouts go too."""
    upper, work = room.layer("one")
    state = State((str(base),), str(upper), str(work))
    assert room.sh(f"rm {ROOTFS}/etc/passwd; mkdir -m 0 {ROOTFS}/closed", state=state).status == 0
    room.sandbox.remove([upper, work], room.scratch())
    assert not upper.exists() and not work.exists()
