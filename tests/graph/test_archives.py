"""Which archives a plan reads: bash, running the elements' own files, is the judge."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgc.graph import compile_plan
from imgc.graph.archives import archives_of
from imgc.graph.implied import plain_environment
from imgc.graph.shell_values import assign
from imgc.spec.model import Base

MIRROR = "http://mirror.example/debian"


def bash(script: str, values: dict[str, str]) -> dict[str, str]:
    """What bash leaves in all variables whose names it was told or that a script sets, after running it."""
    text = f'{script}\nfor name in $(compgen -v); do printf \'%s=%s\\0\' "$name" "${{!name-}}"; done'
    environment = {"PATH": "/usr/bin:/bin", **values}
    done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, check=True)
    return dict(one.split("=", 1) for one in done.stdout.split("\0") if "=" in one)


def plan_of(platform, distro: str, release: str, arch: str = "amd64", mirrors=None, environment=()):
    base = Base("minimal", distro, release, arch, "default", None, False)
    return compile_plan(replace(platform, base=base, elements=(), environment=environment), mirrors=mirrors)


def lines_in_the_image(plan) -> list[str]:
    """The apt lines that the distribution's own hook writes, made by that hook's own text."""
    (hook,) = [hook for hook in plan.hooks["root.d"] if hook.name.startswith("75-")]
    text = Path(hook.path).read_text()
    sourced = "".join(f". {file.source}\n" for file in plan.environment_files)
    if "debian" in hook.name:
        write = 'printf "%s\\n" "$DIB_APT_SOURCES_CONF" | cut -d: -f2-'
    else:
        body = text[text.index('# Add "basic"') : text.index("sudo mount")]
        write = re.sub(r'sudo bash -c "cat << EOF >+.*', "cat << EOF", body).replace('EOF"', "EOF")
    script = f"set +u\n{{ {sourced} }} >/dev/null 2>&1\n{write}"
    environment = {"PATH": "/usr/bin:/bin", **dict(plan.environment)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line.startswith("deb ")]


def lines_of(sources) -> list[str]:
    return [f"deb {one.location} {one.get('suite')} {one.get('components')}".rstrip() for one in sources]


@pytest.mark.parametrize(
    ("distro", "release", "arch"),
    [
        ("debian", "bookworm", "amd64"),
        ("debian", "testing", "arm64"),
        ("ubuntu", "noble", "amd64"),
        ("ubuntu", "jammy", "arm64"),
        ("ubuntu", "trusty", "amd64"),
    ],
)
@pytest.mark.parametrize("mirror", ["", MIRROR])
def test_the_sources_are_the_lines_that_the_elements_write(debian_platform, distro, release, arch, mirror):
    mirrors = {"DIB_DISTRIBUTION_MIRROR": mirror} if mirror else {}
    plan = plan_of(debian_platform, distro, release, arch, mirrors)
    written = [re.sub(r"/ ", " ", line) for line in lines_in_the_image(plan)]
    assert written
    assert lines_of(archives_of(plan)) == written


def test_a_lock_holds_whichever_mirror_is_used(debian_platform):
    one = plan_of(debian_platform, "debian", "bookworm")
    other = plan_of(
        debian_platform,
        "debian",
        "bookworm",
        mirrors={"DIB_DISTRIBUTION_MIRROR": MIRROR, "DIB_DEBIAN_SECURITY_MIRROR": "http://other.example/sec"},
    )
    same = {"DIB_DISTRIBUTION_MIRROR": MIRROR, "DIB_DEBIAN_SECURITY_MIRROR": MIRROR}
    third = plan_of(debian_platform, "debian", "bookworm", mirrors=same)
    names = ["debian bookworm", "debian bookworm-updates", "debian-security bookworm-security"]
    assert [source.name for source in archives_of(third)] == names
    assert [source.name for source in archives_of(one)] == names
    assert [source.name for source in archives_of(other)] == names
    assert archives_of(other)[2].location == "http://other.example/sec"
    assert {source.get("architecture") for source in archives_of(one)} == {"amd64"}


def test_lines_of_the_spec_itself_are_read(debian_platform):
    conf = (
        f"main:deb [signed-by=/k.gpg arch=amd64] {MIRROR}/ bookworm main contrib\n"
        f"more:deb {MIRROR} bookworm non-free # and this\n"
        "none:deb-src http://mirror.example/debian bookworm main\n"
        "file:deb file:/srv/debian bookworm main\n"
        "flat:deb https://user:pw@flat.example/packages ./\n"
        "a:deb http://one.example/apt stable main\n"
        "b:deb http://two.example/apt stable main\n"
    )
    plan = plan_of(
        debian_platform,
        "debian",
        "bookworm",
        mirrors={"DIB_DISTRIBUTION_MIRROR": MIRROR},
        environment=(("DIB_APT_SOURCES_CONF", conf),),
    )
    sources = archives_of(plan)
    assert [(source.name, source.get("components")) for source in sources] == [
        ("debian bookworm", "main contrib non-free"),
        ("packages ./", ""),
        ("apt stable", "main"),
        ("two.example/apt stable", "main"),
    ]
    assert sources[0].place == debian_platform.place("environment.DIB_APT_SOURCES_CONF")


def test_an_unknown_operating_system_names_no_archive(compiled):
    assert archives_of(compiled()) == ()


REPOSITORIES = """\
[fedora]
name=Fedora
baseurl=http://mirror.example/releases/$releasever/Everything/${basearch}/os/
[updates]
baseurl = http://mirror.example/updates/$releasever/$basearch
  http://second.example/updates
[debug]
baseurl=http://mirror.example/debug
enabled=0
[listed]
metalink=https://mirrors.example/metalink?repo=fedora-$releasever
[unknown]
baseurl=http://mirror.example/$nobody/knows
"""


def test_repositories_with_a_url_are_sources(debian_platform, tmp_path):
    (tmp_path / "all.repo").write_text(REPOSITORIES)
    environment = (("DIB_YUM_MINIMAL_BOOTSTRAP_REPOS", str(tmp_path)),)
    sources = archives_of(plan_of(debian_platform, "fedora", "41", environment=environment))
    assert [(source.kind, source.name, source.location) for source in sources] == [
        ("yum", "fedora 41 fedora", "http://mirror.example/releases/41/Everything/x86_64/os"),
        ("yum", "fedora 41 updates", "http://mirror.example/updates/41/x86_64"),
    ]


def test_repositories_known_only_by_a_list_of_mirrors_are_none(debian_platform):
    assert archives_of(plan_of(debian_platform, "centos", "9-stream")) == ()


def test_a_repository_file_of_the_spec_is_read(debian_platform, tmp_path):
    (tmp_path / "mine.repo").write_text("[mine]\nbaseurl=http://mine.example/9\n")
    (tmp_path / "bad.repo").write_text("no section\n")
    files = f"{tmp_path / 'mine.repo'} {tmp_path / 'bad.repo'} {tmp_path / 'none.repo'}"
    plan = plan_of(debian_platform, "centos", "9-stream", environment=(("DIB_YUM_REPO_CONF", files),))
    assert [source.name for source in archives_of(plan)] == ["centos 9-stream mine"]


# --- the values of environment.d ---


def test_every_value_that_is_foreseen_is_the_one_that_bash_gives(debian):
    foreseen = plain_environment(debian.environment, debian.environment_files)
    sourced = "".join(f". {file.source}\n" for file in debian.environment_files)
    real = bash(f"set +u\n{{ {sourced} }} >/dev/null 2>&1", dict(debian.environment))
    assert {name: real.get(name) for name in foreseen} == foreseen
    assert foreseen["DIB_DEBIAN_SECURITY_PATH"] == "bookworm-security"
    assert "DIB_APT_SOURCES_CONF" in foreseen


@pytest.mark.parametrize(
    "script",
    [
        'A=1 B=$A; export C="$A-$B"',
        "A='a b'; B=${A// /,}; C=${A/ /_}",
        "A=${A:-x}; B=${B-y}; C=${C:=z}; D=${E:+no}; F=${A:+yes}",
        'A="one\ntwo ${HOME:-none}"; B=\\\n$A',
        'A="a \\"quoted\\" \\$word"',
        'A=x; A+=y; A+=" $A"',
        'if [ -n "${A:-}" ]; then B=1; else B=2; fi',
        "A=5; if [ $A -ge 4 -a $A -lt 6 ]; then B=in; fi",
        "A=b; if [ $A = a -o $A = b ]; then C=1; fi",
        "A=q; if [[ $A == r ]]; then B=1; elif [[ $A == q && -z ${Z:-} ]]; then B=2; else B=3; fi",
        'A=arm; if [[ "arm mips" =~ "$A" ]]; then B=yes; fi; if [[ arm =~ ^a.m$ ]]; then C=yes; fi',
        "if [ ! -f /no/such/file ]; then A=1; fi",
        "if [ -z x ]; then\n if [ -n x ]; then A=1; fi\nelse\n B=1 # but $A\nfi",
        'A=${B:-${C:-"deep er"}}',
        "A=1; B=2; C=3; unset A B",
    ],
)
def test_plain_scripts_are_read_as_bash_reads_them(script):
    values: dict[str, str] = {"HOME": "/root"}
    assign(script, values)
    real = bash(script, {"HOME": "/root"})
    names = set(values) | {name for name in real if re.fullmatch("[A-F]", name)}
    assert {name: values.get(name) for name in names} == {name: real.get(name) for name in names}


@pytest.mark.parametrize("script", ["A=$(date)", "A=`date`", "A=(1 2)", "A=${A%x}", "A=${!B}", "A=${A[0]}"])
def test_a_value_that_needs_more_is_unknown(script):
    values = {"A": "before", "B": "kept"}
    assign(script, values)
    assert values == {"B": "kept"}


@pytest.mark.parametrize(
    "script",
    [
        "for x in 1; do B=2; done",
        "case x in x) B=2;; esac",
        "return 0; B=2",
        "f() {\nB=2\n}",
        "cat <<END\nB=2\nEND",
        "B='2",
    ],
)
def test_a_construct_that_is_not_known_ends_the_reading(script):
    values = {"A": "before"}
    assign(f"A=read\n{script}\nA=2", values)
    assert values == {"A": "read"}


WORD = st.text(alphabet="ab ${}\"'\\:-/=+;\n#[]()xyz|&", max_size=40)


@settings(max_examples=200)
@given(WORD)
def test_no_text_breaks_the_reader(text):
    assign(text, {"a": "1"})
