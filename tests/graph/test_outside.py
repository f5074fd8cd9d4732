"""What a plan takes from outside: repositories as the stock hook reads them, wheels, and who reads which pin."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imgc.errors import ImgcError
from imgc.graph import Plan, compile_plan, outside
from imgc.graph.outside import (
    pin_facts,
    reads_repositories,
    reads_wheels,
    sources_of,
    target_python,
    warnings_of,
)
from imgc.graph.step import Fact
from imgc.lock import Pin, Source
from imgc.spec.model import Base, Platform

from .conftest import Compile, Elements

HOOK = "#!/bin/bash\nfind $TMP_HOOKS_PATH -maxdepth 1 -name 'source-repository-*'\n"


@pytest.fixture
def repositories(elements: Elements) -> Elements:
    """Elements among which is one that fetches repositories."""
    elements.add("source-repositories", {"extra-data.d/98-source-repositories": HOOK})
    return elements


@pytest.fixture
def sources(repositories: Elements, compiled: Compile) -> Callable[..., tuple[Source, ...]]:
    """The sources of an element with these lines in a source-repository file, and this environment."""

    def sources_of_lines(*lines: str, **environment: str) -> tuple[Source, ...]:
        files = {"source-repository-it": "".join(f"{line}\n" for line in lines)}
        repositories.add("it", files, deps=["source-repositories"])
        return sources_of(compiled("it", environment=tuple(sorted(environment.items()))))

    return sources_of_lines


Sources = Callable[..., tuple[Source, ...]]
LINE = "glean git /opt/glean https://example.org/glean"


def detail(source: Source) -> dict[str, str]:
    return dict(source.detail)


# --- source-repository files ----------------------------------------------------------------------------------------


def test_a_git_line_is_a_source_with_its_ref_and_place(sources: Sources) -> None:
    found = sources("# glean", "", f"{LINE} v1.0")
    assert [(one.kind, one.name, one.location, one.get("ref")) for one in found] == [
        ("git", "glean", "https://example.org/glean", "v1.0")
    ]
    assert str(found[0].place).endswith("elements/it/source-repository-it:3:1")


def test_a_git_line_without_a_ref_means_master(sources: Sources) -> None:
    assert sources(LINE)[0].get("ref") == "master"


def test_file_and_tar_lines_are_files_and_packages_are_none(sources: Sources) -> None:
    found = sources(
        "one file /tmp/one https://example.org/one",
        "two tar /tmp/two https://example.org/two.tar.gz .",
        "three package /tmp/three https://example.org/three",
    )
    assert [(one.kind, one.name, one.get("type")) for one in found] == [
        ("file", "one", "file"),
        ("file", "two", "tar"),
    ]


def test_variables_of_the_spec_and_of_environment_d_are_filled_in(
    sources: Sources, repositories: Elements
) -> None:
    repositories.write("source-repositories/environment.d/10-it", "export VERSION=${VERSION:-1.2}\n")
    found = sources("a file /tmp/a https://$HOST/${NAME:-name}-$VERSION.iso", HOST="example.org")
    assert [one.location for one in found] == ["https://example.org/name-1.2.iso"]


@pytest.mark.parametrize(
    "line", ["a file /tmp/a https://example.org/$(uname -r)", "a git /a $NOWHERE", "`cat x`", "a; b"]
)
def test_a_line_that_takes_a_shell_is_no_source_but_a_warning(
    repositories: Elements, compiled: Compile, line: str
) -> None:
    repositories.add("it", {"source-repository-it": f"\n{line}\n"}, deps=["source-repositories"])
    plan = compiled("it")
    assert sources_of(plan) == ()
    (warning,) = warnings_of(plan)
    assert "source-repository-it:2:1: " in warning and "not pinned" in warning


def test_what_the_environment_says_about_a_repository_wins(sources: Sources) -> None:
    (found,) = sources(
        "my-repo file /opt/x https://example.org/x",
        DIB_REPOTYPE_my_repo="git",
        DIB_REPOLOCATION_my_repo="https://other.test/x",
        DIB_REPOREF_my_repo="stable",
    )
    assert (found.kind, found.location, found.get("ref")) == ("git", "https://other.test/x", "stable")


@pytest.mark.parametrize("variable", ["DIB_INSTALLTYPE_glean", "DIB_DEFAULT_INSTALLTYPE"])
def test_what_is_not_installed_from_source_is_no_source(sources: Sources, variable: str) -> None:
    assert sources(LINE, **{variable: "package"}) == ()


def test_an_install_type_of_its_own_wins_over_the_default(sources: Sources) -> None:
    assert len(sources(LINE, DIB_INSTALLTYPE_glean="source", DIB_DEFAULT_INSTALLTYPE="package")) == 1


def test_no_source_repositories_means_none(sources: Sources) -> None:
    assert sources(LINE, NO_SOURCE_REPOSITORIES="1") == ()


def test_without_the_hook_nothing_is_fetched(elements: Elements, compiled: Compile) -> None:
    elements.add("it", {"source-repository-it": f"{LINE}\n"})
    assert sources_of(compiled("it")) == ()


@pytest.mark.parametrize(
    ("location", "moved"),
    [
        ("https://example.org/openstack/nova.git", "ssh://mine.test/openstack/nova.git"),
        ("git://example.org/~me/nova", "ssh://mine.test//nova"),
        ("/srv/nova", "/srv/nova"),
    ],
)
def test_a_base_for_all_repositories_takes_the_place_of_servers(
    sources: Sources, location: str, moved: str
) -> None:
    (found,) = sources(f"nova git /opt/nova {location}", DIB_GITREPOBASE="ssh://mine.test/")
    assert (found.location, found.get("relocated")) == (moved, "yes")


def test_a_location_of_its_own_wins_over_the_base(sources: Sources) -> None:
    (found,) = sources(
        LINE, DIB_GITREPOBASE="ssh://mine.test/", DIB_REPOLOCATION_glean="https://other.test/glean"
    )
    assert (found.location, found.get("relocated")) == ("https://other.test/glean", "")


def test_what_two_elements_name_alike_is_one_source(sources: Sources, repositories: Elements) -> None:
    repositories.write("source-repositories/source-repository-same", f"{LINE}\n")
    assert len(sources(LINE)) == 1


def test_what_two_elements_name_alike_and_mean_differently_is_two(
    sources: Sources, repositories: Elements
) -> None:
    repositories.write("source-repositories/source-repository-same", f"{LINE} stable\n")
    found = sources(LINE)
    assert [(one.name, one.get("ref"), one.get("repository")) for one in found] == [
        ("glean", "master", "glean"),
        ("glean stable", "stable", "glean"),
    ]


def test_every_line_that_the_hook_cannot_read_is_told_at_once(
    repositories: Elements, compiled: Compile, problems_of: Callable[[Callable[[], object]], list[ImgcError]]
) -> None:
    lines = f"{LINE}\nno-such svn /opt/x https://example.org/x\nalone\n"
    repositories.add("it", {"source-repository-it": lines}, deps=["source-repositories"])
    plan = compiled("it")
    found = problems_of(lambda: sources_of(plan))
    assert [(one.code, one.place.line if one.place else 0) for one in found] == [("E616", 2), ("E616", 3)]


#: Lines as people write them, and worse.
words = st.text("ab$VX{}:-'\"\\# ~*/.", max_size=14)


@given(words)
@example("a#b # c")
@example("'a  b' \"$V\"")
@example("${X:-d}$V\\ x")
@example("*")
@example("a\t~")
def test_a_line_is_evaluated_as_bash_evaluates_it_or_not_at_all(text: str) -> None:
    """The way of the stock hook: read, then eval echo."""
    environment = {"V": "v", "PATH": "/usr/bin:/bin"}
    lines = list(outside._joined(f"{text}\n"))
    echoed = outside._Shell(environment).echo(lines[0][0]) if lines else ""
    if echoed is None:
        return
    script = "set -fu; read line; eval echo $line"
    done = subprocess.run(
        ["bash", "-c", script], input=f"{text}\n", env=environment, capture_output=True, text=True
    )
    assert (done.returncode, " ".join(done.stdout.split())) == (0, echoed)


# --- wheels ---------------------------------------------------------------------------------------------------------

PYTHON = (("IMGC_TARGET_PYTHON", "3.11"),)
BASE = Base("minimal", "debian", "bookworm", "amd64", "default", None, False)


def test_the_wheels_of_an_element_are_a_source_by_its_name(elements: Elements, compiled: Compile) -> None:
    elements.add(
        "it",
        {"python-wheels": "# what it needs\n\nglean >= 1.2 , < 2  # not newer\nsix; python_version < '3'\n"},
    )
    elements.add("other", {"python-wheels": "# nothing yet\n"})
    (found,) = sources_of(compiled("it", "other", environment=PYTHON))
    assert (found.kind, found.name, found.location) == ("wheels", "it", "")
    assert detail(found) == {"python": "3.11", "requirements": "glean>=1.2,<2\nsix; python_version < '3'"}


@pytest.mark.parametrize(
    "line", ["--index-url https://example.org", "-e .", "x @ https://example.org/x.whl", "./x", "a b"]
)
def test_what_is_no_plain_requirement_is_refused(elements: Elements, compiled: Compile, line: str) -> None:
    elements.add("it", {"python-wheels": f"glean\n{line}\n"})
    with pytest.raises(ImgcError, match=r"python-wheels:2:1: E616"):
        sources_of(compiled("it", environment=PYTHON))


def test_an_unknown_python_is_told_with_how_to_say_it(elements: Elements, compiled: Compile) -> None:
    elements.add("it", {"python-wheels": "glean\n"})
    with pytest.raises(ImgcError) as caught:
        sources_of(compiled("it"))
    assert caught.value.code == "E617"
    assert "IMGC_TARGET_PYTHON" in caught.value.hint
    (found,) = sources_of(compiled("it", environment=(("IMGC_TARGET_PYTHON", "3.9"),)))
    assert found.get("python") == "3.9"


@pytest.mark.parametrize(
    ("distro", "release", "python"),
    [
        ("debian", "bullseye", "3.9"),
        ("debian", "trixie", "3.13"),
        ("ubuntu", "trusty", "3.4"),
        ("ubuntu", "noble", "3.12"),
        ("centos", "7", "3.6"),
        ("centos", "10-stream", "3.12"),
        ("fedora", "41", "3.13"),
        ("fedora", "1", ""),
        ("plan9", "4", ""),
    ],
)
def test_the_system_python_of_releases(
    base_platform: Platform, distro: str, release: str, python: str
) -> None:
    base = replace(BASE, distro=distro, release=release)
    assert target_python(replace(base_platform, base=base)) == python


@pytest.mark.parametrize("value", ["3", "three", "3.11.2", ""])
def test_a_python_that_is_set_wrongly_is_not_known(base_platform: Platform, value: str) -> None:
    assert target_python(replace(base_platform, environment=(("IMGC_TARGET_PYTHON", value),))) == ""


# --- who reads which pin --------------------------------------------------------------------------------------------


def facts_by_hook(plan: Plan, *pins: Pin) -> dict[str, tuple[Fact, ...]]:
    by_id = {(pin.kind, pin.name): pin for pin in pins}
    hooks = [hook for phase in plan.hooks for hook in plan.phase(phase)]
    found = {f"{hook.phase}/{hook.name}": pin_facts(plan, hook, by_id) for hook in hooks}
    return {name: facts for name, facts in found.items() if facts}


def test_each_pin_enters_the_key_of_the_hook_that_reads_it(
    debian_platform: Platform, elements: Elements
) -> None:
    elements.add(
        "it",
        {
            "python-wheels": "six\n",
            "install.d/60-it": "#!/bin/sh\npip install --find-links $IMGC_WHEELS six\n",
            "install.d/61-other": "#!/bin/sh\ntrue\n",
        },
    )
    elements.add("get", {"source-repository-get": f"{LINE}\n"}, deps=["source-repositories"])
    platform = replace(
        debian_platform, element_paths=(str(elements.path),), elements=("it", "get", "openssh-server")
    )
    plan = compile_plan(platform)
    pins = [Pin("git", "glean", (("commit", "1" * 40),)), Pin("wheels", "it", (("six-1.whl", "2" * 64),))]
    found = facts_by_hook(plan, *pins)
    assert Fact("pin", "git glean", f"commit:{'1' * 40}") in found.pop("extra-data.d/98-source-repositories")
    assert found.pop("install.d/60-it") == (Fact("pin", "wheels it", f"six-1.whl:{'2' * 64}"),)
    assert {name.split("/")[0] for name in found} == {"root.d"}
    for facts in found.values():
        assert [fact.value for fact in facts] == ["none"] * len(facts), "nothing pins them"
        assert all(fact.name.startswith("apt ") for fact in facts) and facts


def test_only_hooks_that_start_the_system_read_archives(debian: Plan) -> None:
    source = Source("apt", "debian bookworm", "http://example.org/debian")
    readers = [hook.name for hook in debian.phase("root.d") if pin_facts(debian, hook, {}, [source])]
    assert "08-debootstrap" in readers
    assert set(readers) < {hook.name for hook in debian.phase("root.d")}


def test_where_no_hook_names_a_program_the_first_reads_archives(
    elements: Elements, compiled: Compile
) -> None:
    hook = "#!/bin/sh\ntrue\n"
    elements.add(
        "it", {"root.d/20-later": hook, "root.d/10-first": hook, "install.d/10-yum": "#!/bin/sh\nyum x\n"}
    )
    plan = compiled("it")
    source = Source("yum", "fedora", "http://example.org/fedora")
    found = [
        hook.name for phase in plan.hooks for hook in plan.phase(phase) if pin_facts(plan, hook, {}, [source])
    ]
    assert found == ["10-first"]


def test_hooks_that_read_repositories_and_wheels_are_told_by_their_text(
    elements: Elements, compiled: Compile
) -> None:
    elements.add(
        "it",
        {
            "extra-data.d/98-my-repositories": HOOK,
            "extra-data.d/50-writes-one": "#!/bin/sh\ncp x $TMP_HOOKS_PATH/source-repository-x\n",
            "install.d/10-wheels": "#!/bin/sh\nls $IMGC_WHEELS\n",
            "install.d/11-asks": '#!/bin/sh\n# IMGC_WHEELS\n[ -n "${IMGC_WHEELS:-}" ] || [ -z $IMGC_WHEELS ]\n',
            "install.d/12-both": '#!/bin/sh\n[ -n "$IMGC_WHEELS" ] && ls "${IMGC_WHEELS:-/tmp}/it"\n',
            "install.d/13-more": '#!/bin/sh\n[ -n "$IMGC_WHEELS/it" ]\n',
        },
    )
    plan = compiled("it")
    hooks = [hook for phase in plan.hooks for hook in plan.phase(phase)]
    assert [hook.name for hook in hooks if reads_repositories(hook)] == ["98-my-repositories"]
    assert [hook.name for hook in hooks if reads_wheels(hook)] == ["10-wheels", "12-both", "13-more"]


def test_the_sources_of_stock_elements_are_found(debian_platform: Platform) -> None:
    platform = replace(debian_platform, elements=("pip-and-virtualenv", "simple-init"))
    plan = compile_plan(platform)
    found = {(one.kind, one.name) for one in sources_of(plan)}
    assert ("file", "pip-and-virtualenv") in found
