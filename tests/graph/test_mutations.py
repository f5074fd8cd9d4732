"""The proof that keys cover every byte that matters and nothing else, on the shipped platforms.

One byte or one mode of every file of every element, and every setting, is changed, one at a time.  Exactly the steps
that mutation_rules.py names, and those that stand on them, must have other keys, and the first cause that `imgc why`
names must be the thing that was changed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from imgc.graph import tools
from imgc.graph.difference import why
from imgc.graph.outside import sources_of
from imgc.graph.places import owners, place
from imgc.graph.step import Kind
from imgc.graph.tools import tool_identity

from .mutants import (
    EPOCH,
    PLATFORMS,
    SCORE,
    Built,
    Difference,
    Project,
    changed_bytes,
    changed_mode,
    expected,
    first_cause,
    hooks_in,
    in_a_comment,
    lock_of,
    names_file,
    one_byte_more,
    project_in,
)
from .mutation_rules import (
    APART,
    CHANGES,
    EXTRA_ELEMENT,
    TOOLS,
    Change,
    hook_of,
    readers,
    readers_in_place,
    readers_of_no_hook,
    settings,
    steps_read_by,
)

BOOKWORM, TRIXIE = PLATFORMS


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with project_in(tmp_path_factory.mktemp("mutants")) as made:
        yield made


@pytest.fixture(scope="module")
def built(project: Project) -> dict[str, Built]:
    """The platforms as they are."""
    return {name: project.compile(name) for name in PLATFORMS}


@pytest.fixture(autouse=True)
def all_as_expected() -> Iterator[None]:
    """Each test counts its mutants; it fails when one of them did not do what it should."""
    before, before_causes = len(SCORE.wrong), len(SCORE.wrong_causes)
    yield
    wrong = SCORE.wrong[before:] + SCORE.wrong_causes[before_causes:]
    assert not wrong, "\n".join(wrong[:30])


def judge(
    what: str,
    before: Built,
    after: Built,
    wanted: Difference,
    element: str,
    path: Path,
) -> None:
    """Count a mutant of a file, and its cause when it has one."""
    SCORE.judge(what, before, after, wanted)
    if before.keys != after.keys:
        cause = first_cause(before, after)
        SCORE.judge_cause(what, cause, names_file(cause, after, element, path))


def test_the_mutants_are_many(project: Project, built: Mapping[str, Built]) -> None:
    files = list(project.files(built[BOOKWORM].plan))
    assert len(files) > 150
    assert 2 * len(files) + 2 * len(CHANGES) + len(TOOLS) + len(HOST) > 450, (
        "and those of comments come on top"
    )


# --- files --------------------------------------------------------------------------------------------------------


def test_one_byte_more_in_every_file(project: Project, built: Mapping[str, Built]) -> None:
    before = built[BOOKWORM]
    for element, path, overridden, file in project.files(before.plan):
        direct = readers(element, path, overridden, before.steps)
        assert direct is not None, f"no rule in mutation_rules.py says who reads {path} of element {element}"
        with changed_bytes(file, one_byte_more(file)):
            after = project.compile(BOOKWORM)
            judge(f"{file}, bookworm", before, after, expected(before, after, direct), element, file)


def test_one_byte_of_a_comment_of_every_file_that_is_read(
    project: Project, built: Mapping[str, Built]
) -> None:
    """On the other platform, and at the beginning of the file rather than at its end."""
    before = built[TRIXIE]
    for element, path, overridden, file in project.files(before.plan):
        direct = readers(element, path, overridden, before.steps) or set()
        data = in_a_comment(file) or (one_byte_more(file) if direct else None)
        if data is None:
            continue
        with changed_bytes(file, data):
            after = project.compile(TRIXIE)
            judge(f"{file}, trixie", before, after, expected(before, after, direct), element, file)


def test_the_exec_bit_of_every_file(project: Project, built: Mapping[str, Built]) -> None:
    """A hook without it is no hook: of diskimage-builder's elements it is left out, in others that is an error."""
    before = built[BOOKWORM]
    for element, path, overridden, file in project.files(before.plan):
        hook = "" if overridden else hook_of(path, before.steps)
        with changed_mode(file, file.stat().st_mode ^ 0o111):
            if hook and project.shipped in file.parents:
                SCORE.judge_rejected(f"mode of {file}", "E207", lambda: project.compile(BOOKWORM))
                continue
            after = project.compile(BOOKWORM)
            direct = readers(element, path, overridden, before.steps) or set()
            if hook:
                top = Path(str(file).removesuffix(path))
                texts = {step: (top / step).read_text() for step in hooks_in(top)}
                direct = readers_of_no_hook(path, texts, before.steps)
            wanted = expected(before, after, direct, went={hook} - {""})
            judge(f"mode of {file}", before, after, wanted, element, file)


def test_the_umask_of_a_checkout_counts_only_where_elements_are_read_in_place(
    project: Project, built: Mapping[str, Built]
) -> None:
    """The hooks tree is a copy with modes of its own; elements' own directories are as they are on this host."""
    modes = {path: path.stat().st_mode for top in (project.shipped, project.stock) for path in top.rglob("*")}
    before = built[BOOKWORM]
    try:
        for umask in (0o077, 0o027):
            for path, mode in modes.items():
                path.chmod(mode & ~umask)
            after = project.compile(BOOKWORM)
            wanted = expected(before, after, readers_in_place(before.steps))
            SCORE.judge(f"umask {umask:o}", before, after, wanted)
            cause = first_cause(before, after)
            right = cause is not None and cause.text.startswith("mode of file pkg-map of element")
            SCORE.judge_cause(f"umask {umask:o}", cause, right)
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def test_elements_that_are_not_in_the_plan_have_no_part(project: Project, built: Mapping[str, Built]) -> None:
    before = built[TRIXIE]
    present = {element.name for element in before.plan.elements}
    others = [
        one for top in (project.shipped, project.stock) for one in top.iterdir() if one.name not in present
    ]
    files = [path for directory in others for path in directory.rglob("*") if path.is_file()]
    assert len(files) > 500
    with ExitStack() as stack:
        for path in files:
            stack.enter_context(changed_bytes(path, one_byte_more(path)))
        after = project.compile(TRIXIE)
    SCORE.judge(f"{len(files)} files of other elements", before, after, expected(before, after, set()))


# --- settings -----------------------------------------------------------------------------------------------------


def test_every_setting_has_a_mutant() -> None:
    """A new setting needs a line in mutation_rules.py that says which steps read it."""
    assert settings() == {change.setting for change in CHANGES} | set(APART)


@pytest.mark.parametrize("name", PLATFORMS)
def test_every_setting(project: Project, name: str) -> None:
    unchanged: dict[str, Built] = {}
    for change in CHANGES:
        if change.before not in unchanged:
            project.write_spec(name, change.before)
            unchanged[change.before] = project.compile(name)
        before = unchanged[change.before]
        spec = project.write_spec(name, change.overlay.replace("{name}", name))
        try:
            if change.rejected:
                SCORE.judge_rejected(
                    f"{change.overlay}, {name}", change.rejected, lambda: project.compile(name)
                )
                continue
            after = project.compile(name)
        finally:
            project.write_spec(name)
        judge_setting(project, change, before, after, spec)


def judge_setting(project: Project, change: Change, before: Built, after: Built, spec: Path) -> None:
    """Count a mutant of a setting, and its cause when it has one."""
    what = f"{change.overlay}, {before.plan.platform.name}"
    came = set(change.came)
    if EXTRA_ELEMENT in came:
        came = hooks_in(project.shipped / EXTRA_ELEMENT)
    wanted = expected(before, after, steps_read_by(change, before.steps), came=came, went=set(change.went))
    SCORE.judge(what, before, after, wanted)
    if before.keys == after.keys:
        return
    cause = first_cause(before, after)
    kind, name = change.cause
    right = cause is not None and cause.kind == kind and cause.name.endswith(name)
    if cause is not None and (kind in ("env", "option") or change.came == ("packages",)):
        right = right and spec.name in place(after.plan, cause)
    SCORE.judge_cause(what, cause, right)


def test_the_name_of_a_platform_counts_for_who_reads_it_only(
    project: Project, built: Mapping[str, Built]
) -> None:
    before = built[BOOKWORM]
    spec = project.write_spec("other", start=BOOKWORM)
    after = project.compile("other")
    spec.unlink()
    # The manifests of packages and of the build are written under the image's name.
    direct = {"finalise.d/99-write-dpkg-manifest", "cleanup.d/01-copy-manifests-dir"}
    SCORE.judge("name: other", before, after, expected(before, after, direct))


def test_the_baseline_brings_an_element_with_all_that_it_needs(
    project: Project, built: Mapping[str, Built]
) -> None:
    before = built[BOOKWORM]
    project.write_spec(BOOKWORM, "base: {baseline: true}")
    after = project.compile(BOOKWORM)
    project.write_spec(BOOKWORM)
    new = {one.name for one in after.plan.elements} - {one.name for one in before.plan.elements}
    assert "base" in new
    came = set().union(*(hooks_in(project.stock / name) for name in new))
    # Its environment file is sourced by every hook.
    direct = {id for id, step in before.steps.items() if step.kind is Kind.HOOK}
    SCORE.judge("base.baseline: true", before, after, expected(before, after, direct, came=came))
    cause = first_cause(before, after)
    right = cause is not None and (cause.element, cause.name) == ("base", "environment.d/10-base-defaults")
    SCORE.judge_cause("base.baseline: true", cause, right)


# --- what is not in the project ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS)
def test_a_program_of_the_host_counts_for_its_users_only(
    project: Project, built: Mapping[str, Built], monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    def identity(name: str, *where: str) -> str:
        return "another" if name == tool else tool_identity(name, *where)

    for module in [module for name, module in sys.modules.items() if name.startswith("imgc.graph.")]:
        if module is not tools and hasattr(module, "tool_identity"):
            monkeypatch.setattr(module, "tool_identity", identity)
    before, after = built[BOOKWORM], project.compile(BOOKWORM)
    SCORE.judge(f"tool {tool}", before, after, expected(before, after, set(TOOLS[tool]) & set(before.steps)))
    if before.keys != after.keys:
        cause = first_cause(before, after)
        SCORE.judge_cause(
            f"tool {tool}", cause, cause is not None and (cause.kind, cause.name) == ("tool", tool)
        )


def test_each_pin_counts_for_the_step_that_reads_it_first(
    project: Project, built: Mapping[str, Built]
) -> None:
    before = built[BOOKWORM]
    lock = lock_of(before.plan, sources_of(before.plan))
    assert lock.pins
    first_reader = {"apt": "root.d/08-debootstrap", "wheels": "install.d/40-glean"}
    for id, pin in lock.pins.items():
        moved = replace(lock, pins={**lock.pins, id: replace(pin, identity=(("sha256", "2" * 64),))})
        after = project.compile(BOOKWORM, moved)
        changed = [name for name in before.steps if before.key_of[name] != after.key_of[name]]
        direct = Difference.between(before, after).direct
        SCORE.judge(f"pin {id}", before, after, expected(before, after, direct))
        cause = first_cause(before, after)
        right = cause is not None and (cause.kind, cause.name) == ("pin", " ".join(id))
        SCORE.judge_cause(f"pin {id}", cause, right)
        assert first_reader[id[0]] in direct
        assert changed


def test_the_epoch_counts_for_every_step_that_writes_files(
    project: Project, built: Mapping[str, Built]
) -> None:
    before = built[BOOKWORM]
    after = project.compile(BOOKWORM, replace(lock_of(before.plan, sources_of(before.plan)), epoch=EPOCH + 1))
    direct = {id for id, step in before.steps.items() if step.kind not in (Kind.COLLECT, Kind.CHECK)}
    SCORE.judge("epoch", before, after, expected(before, after, direct))
    causes = why(after.graph, after.keys, before.record, owners(after.plan))
    right = [(one.kind, one.name) for one in causes] == [("pin", "epoch")]
    SCORE.judge_cause("epoch", causes[0] if causes else None, right)


HOST = {
    "ARCH": "arm64",
    "CURL_CA_BUNDLE": "/certificates",
    "DIB_RELEASE": "sid",
    "DIB_DISTRIBUTION_MIRROR": "http://host.test/debian",
    "DIB_GRUB_TIMEOUT": "9",
    "DIB_IMAGE_CACHE": "/nowhere",
    "ELEMENTS_PATH": "/nowhere",
    "HOME": "/nowhere",
    "http_proxy": "http://proxy.test",
    "IMAGE_NAME": "other",
    "IMGC_BOOT": "bios",
    "IMGC_UNHEARD_OF": "1",
    "LANG": "de_DE.UTF-8",
    "LC_ALL": "tr_TR.UTF-8",
    "LOGNAME": "nobody",
    "PYTHONPATH": "/nowhere",
    "TMPDIR": "/nowhere",
    "TZ": "Pacific/Chatham",
    "USER": "nobody",
    "XDG_CACHE_HOME": "/nowhere",
}


@pytest.mark.parametrize("variable", HOST)
def test_variables_of_the_host_have_no_part(
    project: Project, built: Mapping[str, Built], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, HOST[variable])
    before, after = built[BOOKWORM], project.compile(BOOKWORM, host=dict(os.environ))
    SCORE.judge(f"host variable {variable}", before, after, expected(before, after, set()))


def test_place_and_time_have_no_part(
    project: Project, built: Mapping[str, Built], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = built[BOOKWORM]
    monkeypatch.chdir(tmp_path)
    SCORE.judge("cwd", before, after := project.compile(BOOKWORM), expected(before, after, set()))
    for clock in ("time", "time_ns", "monotonic"):
        monkeypatch.setattr(time, clock, lambda: 4_000_000_000)
    SCORE.judge("time", before, after := project.compile(BOOKWORM), expected(before, after, set()))
