"""The environment and the mounts that the DIB element protocol promises to each phase.

Every path is one of the sandbox's own, so nothing of the build host reaches a hook through here.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from imgc.engine import sandbox

if TYPE_CHECKING:
    from imgc.graph.plan import Plan

HOOKS = f"{sandbox.BUILD}/hooks"
ROOTFS = f"{sandbox.BUILD}/mnt"
OUT = f"{sandbox.BUILD}/out"
IN_TARGET = "/tmp/in_target.d"

#: Phases in which /proc, /dev and /sys are mounted in the rootfs.
_MOUNTED = (
    "extra-data.d",
    "pre-install.d",
    "install.d",
    "post-install.d",
    "post-root.d",
    "pre-finalise.d",
    "finalise.d",
    "cleanup.d",
)
#: Phases up to which the mounts that hooks leave in the rootfs stay alive.
_REPLAYED = ("root.d", "extra-data.d", "pre-install.d", "install.d", "post-install.d", "post-root.d")
_TARGET_ROOT = ("root.d", "cleanup.d")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment(
    plan: Plan, phase: str, *, in_target: bool, debug_trace: int = 0, given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The whole environment of a hook in ``phase``, before environment.d adds to it.

    ``given`` is what follows from pins; what the spec says wins over it.
    """
    values = {
        "LC_ALL": "C",
        "USER": "root",
        "LOGNAME": "root",
        "SHELL": "/bin/bash",
        # What sudo makes of a missing one.
        "TERM": "unknown",
        "HOME": "/root" if in_target else sandbox.HOME,
        # Elements' hooks use the stock driver's files and the host's own tools; sudo is imgc's.
        "PATH": f"{_PATH}:/dev/imgc/bin" if in_target else f"{sandbox.BIN}:{_PATH}",
        **driver_variables(plan, debug_trace),
        **(given or {}),
        **dict(plan.environment),
    }
    if phase in _TARGET_ROOT:
        values["TARGET_ROOT"] = ROOTFS
    return values


def driver_variables(plan: Plan, debug_trace: int) -> dict[str, str]:
    """What the stock driver exports in every phase."""
    return {
        "_LIB": f"{sandbox.DIB}/lib",
        "DIB_PYTHON_EXEC": f"{sandbox.BIN}/python3",
        "DIB_ARGS": " ".join(element.name for element in plan.elements),
        "DIB_ENV": dib_env(plan.environment),
        "DIB_DEBUG_TRACE": str(debug_trace),
        "DIB_IMAGE_CACHE": sandbox.CACHE,
        "DIB_LOCKFILES": f"{sandbox.CACHE}/lockfiles",
        "DIB_CHECKSUM": "1",
        "DIB_NO_TMPFS": "1",
        "DIB_MIN_TMPFS": "2",
        "DIB_OFFLINE": "",
        "IMAGE_TYPE": "qcow2",
        "OUT_IMAGE_PATH": "",
        "ELEMENTS_PATH": ":".join(
            f"{sandbox.ELEMENTS}/{number}" for number, _ in enumerate(plan.search_paths)
        ),
        "IMAGE_ELEMENT": " ".join(element.name for element in plan.elements),
        "IMAGE_ELEMENT_YAML": image_element_yaml(plan),
        "TMP_BUILD_DIR": sandbox.BUILD,
        "TMP_IMAGE_DIR": sandbox.WORK,
        "TMP_HOOKS_PATH": HOOKS,
        "TMP_MOUNT_PATH": ROOTFS,
        "DIB_BLOCK_DEVICE_PARAMS_YAML": f"{sandbox.BUILD}/block-device/params.yaml",
    }


def dib_env(environment: Sequence[tuple[str, str]]) -> str:
    """The DIB_ variables of the build as bash declares them; the manifests element writes this into the image."""
    lines = [
        f"declare -x {name}={_double_quoted(value)}" for name, value in environment if name.startswith("DIB_")
    ]
    return "\n".join(sorted(lines))


def _double_quoted(value: str) -> str:
    for character in ("\\", '"', "$", "`"):
        value = value.replace(character, "\\" + character)
    return f'"{value}"'


def element_path(plan: Plan, name: str) -> str:
    """Where an element's directory is inside the sandbox."""
    element = next(one for one in plan.elements if one.name == name)
    return f"{sandbox.ELEMENTS}/{element.search_path_index}/{name}"


def image_element_yaml(plan: Plan) -> str:
    """Name to path of every element, as YAML."""
    return "".join(
        f"{name}: {element_path(plan, name)}\n" for name in sorted(one.name for one in plan.elements)
    )


def functions(plan: Plan) -> str:
    """The shell functions that hooks outside the chroot may call."""
    paths = " ".join(f"[{one.name}]={element_path(plan, one.name)}" for one in plan.elements)
    return (
        'source "$_LIB/die"\n'
        "function get_image_element_array {\n"
        f"  echo {shlex.quote(paths)}\n"
        "}\n"
        "export -f get_image_element_array\n"
    )


def target(phase: str, mounts: Sequence[Mapping[str, object]], *, in_target: bool) -> sandbox.Target:
    """What is mounted in the rootfs for a step of ``phase``; ``mounts`` are those that earlier hooks left."""
    if phase == "block-device.d":
        return sandbox.Target(built=True)
    replay = tuple(mounts) if phase in _REPLAYED else ()
    return sandbox.Target(system=phase in _MOUNTED, hooks=in_target, devices=phase == "root.d", replay=replay)


def hook_payload(
    plan: Plan, phase: str, name: str, *, in_target: bool, debug_trace: int, given: Mapping[str, str]
) -> sandbox.Payload:
    """The program that runs one hook; ``given`` as in :func:`environment`."""
    env = environment(plan, phase, in_target=in_target, debug_trace=debug_trace, given=given)
    if in_target:
        argv = ("/bin/bash", "/dev/imgc/bin/run-hook", IN_TARGET, phase, name)
        return sandbox.Payload(argv, env, cwd="/", chroot=ROOTFS)
    argv = ("/bin/bash", f"{sandbox.BIN}/run-hook", HOOKS, phase, name)
    return sandbox.Payload(argv, env, cwd=OUT)


def packages_payload(
    plan: Plan, packages: Sequence[str], *, debug_trace: int, given: Mapping[str, str]
) -> sandbox.Payload:
    """The program that installs the spec's own packages, with the environment of install.d."""
    env = environment(plan, "install.d", in_target=True, debug_trace=debug_trace, given=given)
    script = f'. /dev/imgc/bin/hook-environment {IN_TARGET}; exec install-packages "$@"'
    return sandbox.Payload(("/bin/bash", "-c", script, "packages", *packages), env, cwd="/", chroot=ROOTFS)


def shell_payload(payload: sandbox.Payload) -> sandbox.Payload:
    """An interactive shell with the environment that ``payload`` would have had."""
    hooks = IN_TARGET if payload.chroot else HOOKS
    # Bash drops PS1 from the environment of a script.
    prompt = "export PS1='(imgc) \\w # '"
    where = "/dev/imgc/bin" if payload.chroot else sandbox.BIN
    script = (
        f"[ -d {hooks} ] && . {where}/hook-environment {hooks}; set +eu; {prompt}; exec /bin/bash --norc -i"
    )
    env = {**payload.env, "TERM": os.environ.get("TERM", "dumb")}
    return dataclasses.replace(payload, argv=("/bin/bash", "-c", script), env=env, ignore_syncs=False)
