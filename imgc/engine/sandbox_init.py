"""The first program of a sandbox: makes the namespaces, builds the root, runs one payload, reports.

Started by :mod:`imgc.engine.sandbox` as ``python3 -I -S sandbox_init.py PLAN.json`` and free of imports beyond
the standard library, because its start-up is paid by every step.  Whatever happens to it (an error, SIGKILL, the
death of imgc), the kernel takes its mount and PID namespaces and with them every mount and every process.

As ``sandbox_init.py --hold PLAN.json`` it makes namespaces that other sandboxes of the same build join, with a file
system in memory in them, says ``ready`` and keeps them until it is killed.

The plan is the JSON form of :class:`imgc.engine.sandbox.SandboxPlan`.  The exit status is the payload's (128 + n
for signal n), or 125 with ``imgc-sandbox: …`` on stderr when the sandbox itself could not be made.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import struct
import sys

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x08000000, 0x10000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
MOUNT_ATTR_RDONLY = 1
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SYS_MOUNT_SETATTR = 442
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "ppc64le": 203, "s390x": 217, "riscv64": 41}
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_SECCOMP = 1, 24, 22
SETUP_FAILED = 125

#: Bytes set aside for the report.
REPORT_SIZE = 64 * 1024

#: The signals by which imgc, or a user at the terminal, ends a sandbox.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Capabilities no image build has use for: loading modules, raw I/O, rebooting, setting the clock.
DROPPED_CAPABILITIES = (16, 17, 22, 25)

#: sync, fsync, fdatasync, sync_file_range, syncfs, msync: (AUDIT_ARCH, syscall numbers).
SYNC_CALLS = {
    "x86_64": (0xC000003E, (162, 74, 75, 277, 306, 26)),
    "aarch64": (0xC00000B7, (81, 82, 83, 84, 267, 227)),
}

#: What this process, Python or whoever started imgc ignores, and a hook must not.
PAYLOAD_SIGNALS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGPIPE,
    signal.SIGTERM,
    signal.SIGXFSZ,
)

#: Where the host is while the new root is being built.
HOST = "/oldroot"

# Known to type checkers by this name; importing typing would cost every step more than building its root.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    #: The plan, or a part of it, as JSON gives it.
    Plan = dict[str, Any]
    #: (root, mount point, type, source, device, options) of one mount.
    Mounted = tuple[str, str, str, str, str, str]

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


class SetupError(Exception):
    """The sandbox cannot be made; the text says which call failed."""


def call(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise SetupError(f"{what}: {os.strerror(number)}")


def mount(source: str | None, target: str, kind: str | None, flags: int = 0, data: str = "") -> None:
    result = libc.mount(
        source.encode() if source else None,
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    call(f"mount {kind or 'bind'} {source} on {target}", result)


def bind(source: str, target: str, read_only: bool = False) -> None:
    """Bind ``source`` with everything below it; make the target (a directory or a file) when it is missing."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.lexists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(source, target, None, MS_BIND | MS_REC)
    if read_only:
        attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
        result = libc.syscall(
            SYS_MOUNT_SETATTR, AT_FDCWD, target.encode(), AT_RECURSIVE, attributes, len(attributes)
        )
        call(f"make {target} read-only", result)


def unshare(flags: int) -> None:
    call("unshare", libc.unshare(flags))


def pivot_root(new: str, put_old: str) -> None:
    number = SYS_PIVOT_ROOT[os.uname().machine]
    call(f"pivot_root {new}", libc.syscall(number, new.encode(), put_old.encode()))


def write(path: str, text: str, mode: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


# --- namespaces ---------------------------------------------------------------------------------------------------


def enter_user_namespace(maps: Plan) -> None:
    """Become root of a new user namespace whose ids are mapped by newuidmap and newgidmap from outside it."""
    ready_read, ready_write = os.pipe()
    parent = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.close(ready_write)
        if os.read(ready_read, 1) != b"x":
            os._exit(1)
        for program in ("newuidmap", "newgidmap"):
            words = [str(number) for line in maps[program] for number in line]
            if os.spawnvp(os.P_WAIT, program, [program, str(parent), *words]) != 0:
                os._exit(1)
        os._exit(0)
    os.close(ready_read)
    unshare(CLONE_NEWUSER)
    os.write(ready_write, b"x")
    os.close(ready_write)
    if os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1]) != 0:
        raise SetupError("newuidmap or newgidmap refused the id range")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.setgroups([])


def die_with_parent(alive: int) -> None:
    """Have the kernel kill this process when its parent dies; ``alive`` is a pipe that only the parent holds open."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have died before the line above; then the pipe has no writer left.
    if select.select([alive], [], [], 0)[0]:
        os._exit(128 + signal.SIGKILL)
    os.close(alive)


def into_namespaces(plan: Plan) -> None:
    """Go on as process 1 of fresh namespaces; the parent waits for it and exits as it did."""
    if plan["join"]:
        join(plan["join"], bool(plan["user_namespace"]))
    elif plan["user_namespace"]:
        enter_user_namespace(plan["user_namespace"])
    # After that, because a change of credentials clears it.
    die_with_imgc(plan["imgc"])
    unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID)
    alive, held = os.pipe()
    # Held back until there is a child to end; the child ignores them before it lets them in.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    child = os.fork()
    if child:
        os.close(alive)
        os._exit(wait_for(child, plan["interactive"]))
    os.close(held)
    die_with_parent(alive)
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def join(holder: int, with_user: bool) -> None:
    """Enter the mount namespace (and user namespace) that the process ``holder`` keeps."""
    descriptors = [os.open(f"/proc/{holder}/ns/{name}", os.O_RDONLY) for name in ("user", "mnt")]
    if with_user:
        call("enter the user namespace of the build", libc.setns(descriptors[0], CLONE_NEWUSER))
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        os.setgroups([])
    call("enter the mount namespace of the build", libc.setns(descriptors[1], CLONE_NEWNS))
    for descriptor in descriptors:
        os.close(descriptor)


def hold(plan: Plan) -> None:
    """Keep namespaces with a file system in memory for other sandboxes to join, until this process is killed."""
    if plan["user_namespace"]:
        enter_user_namespace(plan["user_namespace"])
    die_with_imgc(plan["imgc"])
    unshare(CLONE_NEWNS)
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("imgc", plan["memory"], "tmpfs", MS_NOSUID | MS_NODEV, f"mode=0755,size={plan['size']}")
    print("ready", flush=True)
    # Which signals end the build is for imgc to say; it kills this process last.
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    while True:
        signal.pause()


def die_with_imgc(pid: int) -> None:
    """Have the kernel kill this process when imgc dies, however this process was started."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != pid:
        os._exit(128 + signal.SIGKILL)


def wait_for(child: int, interactive: bool) -> int:
    """Exit status of process 1 of the sandbox; a signal to this process ends it, and all that runs in there.

    Only when this returns has the last process of the sandbox left the files of the build alone.  Ctrl-C at the
    terminal of an interactive one is for the shell.
    """
    for number in ENDING:
        signal.signal(number, lambda *_: os.kill(child, signal.SIGKILL))
    if interactive:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


# --- the root file system ---------------------------------------------------------------------------------------


def host_path(path: str) -> str:
    return HOST + path


def build_root(plan: Plan) -> None:
    """Move into a tmpfs root: the host read-only, a private /dev, /proc, /tmp and /run, and imgc's own /imgc."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    # Mounted over /tmp only until pivot_root moves it away; the host's /tmp is then visible below HOST again.
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    os.mkdir("/tmp/newroot")
    os.mkdir("/tmp" + HOST)
    os.chdir("/tmp")
    pivot_root("/tmp", "/tmp" + HOST)
    os.chdir("/")
    root = "/newroot"
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    bind_host(root)
    make_dev(root + "/dev", plan["dev_files"])
    os.mkdir(root + "/proc")
    mount("proc", root + "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    bind(host_path("/sys"), root + "/sys", read_only=True)
    os.makedirs(root + "/run", exist_ok=True)
    make_resolvable(root)
    for path in plan["directories"]:
        os.makedirs(root + path, exist_ok=True)
    for source, target, mode in plan["binds"]:
        bind(host_path(source), root + target, read_only=mode == "ro")
    for path, (mode, text) in plan["files"].items():
        write(root + path, text, mode)
    if plan["state"]:
        mount_state(root + "/imgc/build.0", plan["state"])
    os.chdir(root)
    os.mkdir(root + HOST)
    pivot_root(root, root + HOST)
    os.chdir("/")
    # HOST now holds the first tmpfs, below which the real host still is.
    call("leave the host", libc.umount2(HOST.encode(), MNT_DETACH))
    os.rmdir(HOST)


def bind_host(root: str) -> None:
    skipped = {"proc", "sys", "dev", "tmp", "run", "imgc", "lost+found"}
    for entry in sorted(os.listdir(HOST)):
        source, target = host_path("/" + entry), f"{root}/{entry}"
        if entry in skipped:
            continue
        if os.path.islink(source):
            os.symlink(os.readlink(source), target)
        elif os.path.isdir(source):
            bind(source, target, read_only=True)


def make_resolvable(root: str) -> None:
    """Where the host's resolv.conf is a link into /run, put its text there: /run itself is private and empty."""
    with contextlib.suppress(OSError):
        path = os.path.normpath(os.path.join("/etc", os.readlink(host_path("/etc/resolv.conf"))))
        if path.startswith("/run/"):
            with open(host_path(path), encoding="utf-8") as file:
                write(root + path, file.read(), 0o644)


def make_dev(path: str, files: dict[str, tuple[int, str]]) -> None:
    """A minimal /dev: the harmless nodes of the host, a private devpts and shm, and imgc's own directory."""
    os.mkdir(path)
    mount("tmpfs", path, "tmpfs", MS_NOSUID, "mode=0755")
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        if os.path.exists(host_path("/dev/" + name)):
            bind(host_path("/dev/" + name), f"{path}/{name}")
    for name in ("pts", "shm"):
        os.mkdir(f"{path}/{name}")
    mount(
        "devpts", path + "/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"
    )
    mount("tmpfs", path + "/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    links = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
    for name, target in links.items():
        os.symlink(target, f"{path}/{name}")
    for name, (mode, text) in files.items():
        write(f"{path}/imgc/{name}", text, mode)


def mount_state(target: str, state: Plan) -> None:
    """Mount the layers (top first) on ``target``; without an upper directory the result is read-only.

    The layers are named by short links in a directory of their own, because the kernel takes one page of options.
    """
    os.makedirs(target)
    links = "/layers"
    os.mkdir(links)
    os.chdir(links)
    names = []
    for number, layer in enumerate(state["lowers"]):
        os.symlink(host_path(layer), str(number))
        names.append(str(number))
    options = ["lowerdir=" + ":".join(names), "index=off"]
    if state["upper"]:
        for link, directory in (("u", state["upper"]), ("w", state["work"])):
            os.makedirs(host_path(directory), exist_ok=True)
            os.symlink(host_path(directory), link)
        options += ["upperdir=u", "workdir=w"]
    options.append("userxattr" if state["userxattr"] else "redirect_dir=off,metacopy=off")
    if len(names) == 1 and not state["upper"]:
        bind(host_path(state["lowers"][0]), target, read_only=True)
    else:
        mount("imgc", target, "overlay", 0 if state["upper"] else MS_RDONLY, ",".join(options))
    os.chdir("/")


# --- mounts in the target -----------------------------------------------------------------------------------------


def prepare_target(plan: Plan) -> None:
    """Inside the finished root: what the DIB driver mounts in the target for this phase."""
    target = plan["target"]
    if not target:
        return
    if target["built"]:
        bind("/imgc/build.0/mnt", "/imgc/build.0/built")
        mount("tmpfs", "/imgc/build.0/mnt", "tmpfs", 0, "mode=0755")
        return
    for one in target["replay"]:
        replay(one)
    if target["system"]:
        for name in ("proc", "dev", "sys"):
            os.makedirs(f"/imgc/build.0/mnt/{name}", exist_ok=True)
        mount("proc", "/imgc/build.0/mnt/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount("/dev", "/imgc/build.0/mnt/dev", None, MS_BIND | MS_REC)
        bind("/sys", "/imgc/build.0/mnt/sys", read_only=True)
        refresh_resolv_conf(target["resolv_conf"])
    elif lacks_devices(plan):
        mount("/dev", "/imgc/build.0/mnt/dev", None, MS_BIND | MS_REC)
    if target["hooks"]:
        bind_hooks()


def own_mounts(plan: Plan) -> tuple[str, ...]:
    """Where in the target :func:`prepare_target` has mounted something, apart from what it replayed."""
    if plan["target"]["system"]:
        return ("dev", "proc", "sys", "tmp/in_target.d")
    return ("dev",) if lacks_devices(plan) else ()


def lacks_devices(plan: Plan) -> bool:
    """Whether hooks that enter the rootfs by themselves would find no device nodes there."""
    wanted = plan["user_namespace"] and plan["target"]["devices"]
    return bool(wanted) and os.path.isdir("/imgc/build.0/mnt/dev")


def replay(one: Plan) -> None:
    """Make a mount again that an earlier hook made and left for later phases (a package cache, say)."""
    path = "/imgc/build.0/mnt/" + one["target"]
    os.makedirs(path, exist_ok=True)
    if one["type"] == "bind":
        os.makedirs(one["source"], exist_ok=True)
        mount(one["source"], path, None, MS_BIND)
    else:
        mount(one["source"], path, one["type"], one["flags"], one["data"])


def refresh_resolv_conf(text: str) -> None:
    """Bring the name servers up to date when a cached layer holds those of an earlier day."""
    path, marker = "/imgc/build.0/mnt/etc/resolv.conf", "/imgc/build.0/resolv.conf"
    with contextlib.suppress(OSError):
        with open(marker, encoding="utf-8") as file:
            ours = file.read()
        if ours == text or os.path.islink(path):
            return
        with open(path, encoding="utf-8") as file:
            if file.read() != ours:
                return
        for name in (path, marker):
            with open(name, "w", encoding="utf-8") as file:
                file.write(text)


IN_TARGET = "/imgc/build.0/mnt/tmp/in_target.d"


def bind_hooks() -> None:
    os.makedirs(IN_TARGET, exist_ok=True)
    bind("/imgc/build.0/hooks", IN_TARGET, read_only=True)


def unbind_hooks() -> None:
    """Leave no empty directory behind in the layer."""
    libc.umount2(IN_TARGET.encode(), MNT_DETACH)
    with contextlib.suppress(OSError):
        os.rmdir(IN_TARGET)


def mount_table() -> list[Mounted]:
    """What is mounted: (root, mount point, type, source, device, options) in mount order."""
    table = []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            before, after = line.rstrip("\n").split(" - ", 1)
            fields, rest = before.split(" "), after.split(" ")
            table.append(
                (unescape(fields[3]), unescape(fields[4]), rest[0], unescape(rest[1]), fields[2], fields[5])
            )
    return table


def unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def left_mounts(own: tuple[str, ...]) -> list[Plan]:
    """The mounts below the target that hooks left, in a form that :func:`replay` understands.

    ``own`` are mount points in the target that are the sandbox's.
    """
    below, table, found = "/imgc/build.0/mnt/", mount_table(), []
    points = [below + name for name in own]
    for root, point, kind, source, device, options in table:
        if not point.startswith(below) or any(point == one or point.startswith(one + "/") for one in points):
            continue
        relative = point[len(below) :]
        origin = bind_origin(table, root, device)
        if origin:
            found.append({"type": "bind", "source": origin, "target": relative, "flags": 0, "data": ""})
        elif kind in ("tmpfs", "proc", "sysfs", "devpts"):
            flags = MS_RDONLY if "ro" in options.split(",") else 0
            found.append({"type": kind, "source": source, "target": relative, "flags": flags, "data": ""})
    return found


def bind_origin(table: list[Mounted], root: str, device: str) -> str:
    """The path outside the target that shows ``root`` of ``device``; empty when no mount does."""
    best = ("", "")
    for base, point, _, _, other, _ in table:
        if other != device or point.startswith("/imgc/build.0/mnt"):
            continue
        inside = root == base or root.startswith(base.rstrip("/") + "/")
        if inside and point.startswith("/imgc/") and len(base) >= len(best[0]):
            best = (base, point)
    if not best[1]:
        return ""
    return best[1] + root[len(best[0].rstrip("/")) :]


# --- the payload ----------------------------------------------------------------------------------------------------


def ignore_syncs() -> None:
    """Let every sync call return 0 at once: a layer is made durable as a whole, or thrown away."""
    if os.uname().machine not in SYNC_CALLS:
        return
    architecture, numbers = SYNC_CALLS[os.uname().machine]
    instruction = struct.Struct("HBBI")
    count = len(numbers)
    program = [instruction.pack(0x20, 0, 0, 4), instruction.pack(0x15, 0, count + 1, architecture)]
    program.append(instruction.pack(0x20, 0, 0, 0))
    for position, number in enumerate(numbers):
        program.append(instruction.pack(0x15, count - position, 0, number))
    program.append(instruction.pack(0x06, 0, 0, 0x7FFF0000))
    program.append(instruction.pack(0x06, 0, 0, 0x00050000))
    code = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    call("install the sync filter", libc.prctl(PR_SET_SECCOMP, 2, header, 0, 0))


def start_payload(payload: Plan) -> int:
    child = os.fork()
    if child:
        return child
    try:
        if payload["chroot"]:
            os.chroot(payload["chroot"])
        os.chdir(payload["cwd"])
        for number in DROPPED_CAPABILITIES:
            libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
        if payload["ignore_syncs"]:
            ignore_syncs()
        os.umask(0o022)
        for number in PAYLOAD_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(payload["argv"][0], payload["argv"], payload["env"])
    except (OSError, SetupError) as problem:
        sys.stderr.write(f"imgc-sandbox: {payload['argv'][0]}: {problem}\n")
        sys.stderr.flush()
    os._exit(127)


def reap(child: int) -> int:
    """Wait for the payload and for whatever it leaves to process 1; its exit status, as a shell would give it."""
    while True:
        try:
            pid, status = os.wait()
        except InterruptedError:
            continue
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def left_processes() -> list[str]:
    """Names of the processes that outlived the payload; they end with this process."""
    names = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) > 1:
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", encoding="utf-8") as file:
                fields = file.read()
                if fields[fields.rindex(")") + 2] != "Z":
                    names.append(fields[fields.index("(") + 1 : fields.rindex(")")])
    return sorted(names)


def main(arguments: list[str]) -> None:
    with open(arguments[-1], encoding="utf-8") as file:
        plan = json.load(file)
    if arguments[0] == "--hold":
        hold(plan)
    into_namespaces(plan)
    os.umask(0o022)
    report = os.open(plan["report"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    # The payload may fill the file system.
    os.posix_fallocate(report, 0, REPORT_SIZE)
    build_root(plan)
    prepare_target(plan)
    target = plan["target"]
    own = own_mounts(plan) if target else ()
    status = reap(start_payload(plan["payload"]))
    if target and target["hooks"]:
        unbind_hooks()
    mounts = left_mounts(own) if target and not target["built"] else []
    text = json.dumps({"status": status, "mounts": mounts, "processes": left_processes()}).encode()
    os.write(report, text)
    os.ftruncate(report, len(text))
    os.close(report)
    os._exit(status)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (SetupError, OSError) as problem:
        if isinstance(problem, OSError) and problem.errno == errno.EPIPE:
            os._exit(SETUP_FAILED)
        sys.stderr.write(f"imgc-sandbox: {problem}\n")
        sys.stderr.flush()
        os._exit(SETUP_FAILED)
