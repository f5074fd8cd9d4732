"""Templates: what they can refer to, what they render to, and what they cannot do."""

from __future__ import annotations

import time

import pytest

from .conftest import Specs


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ name }} {{ base.release }}", "one bookworm"),
        ("{{ base['release'] }}", "bookworm"),
        ("{{ base.arch }} {{ disk.label }}", "amd64 cloudimg-rootfs"),
        ("{{ base.baseline }} {{ disk.timeout }}", "true 1"),
        ("{% if base.baseline and disk.timeout == 1 %}yes{% else %}no{% endif %}", "yes"),
        ("{{ disk.boot }}", "both"),
        ("{{ elements | join('+') }} {{ elements[1] }} {{ elements | length }}", "vm+growroot growroot 2"),
        ("{{ 'vm' in elements }} {{ 'x' in elements }}", "true false"),
        ("{{ environment.OTHER | upper }}", "VALUE BOOKWORM"),
        ("{{ environment.GONE | default('none') }}", "none"),
        ("{{ environment.GONE is defined }}{{ environment.OTHER is defined }}", "falsetrue"),
        ("{{ elements[7] | default('none') }}", "none"),
        ("{{ env.IMGC_SET }} {{ env.IMGC_UNSET | default('-') }}", "from the host -"),
        ("{{ 'a' ~ base.release | replace('book', 'worm') }}", "awormworm"),
        ("{{ '{{' }}{% raw %}{% if %}{% endraw %}", "{{{% if %}"),
        ("{# remark #}{{ name }}", "one"),
        ("{{ environment['items'] | default('a name like any other') }}", "a name like any other"),
    ],
)
def test_renders(specs: Specs, template: str, text: str) -> None:
    quoted = template.replace("'", "''")
    specs.platform(
        f"elements: [vm, growroot]\nenvironment:\n  THIS: '{quoted}'\n  OTHER: 'value {{{{ base.release }}}}'\n"
    )
    assert dict(specs.load(host={"IMGC_SET": "from the host"}).environment)["THIS"] == text


def test_line_ends_are_kept(specs: Specs) -> None:
    specs.platform("environment:\n  THIS: |\n    {{ name }}\n    two\n")
    assert dict(specs.load().environment)["THIS"] == "one\ntwo\n"


def test_results_are_converted(specs: Specs) -> None:
    specs.platform(
        "  baseline: '{{ env.IMGC_BASELINE }}'\ndisk:\n  size: '{{ env.IMGC_GIB }} GiB'\n  timeout: '{{ 1 + 1 }}'\n"
        "outputs:\n- '{{ env.IMGC_FORMAT }}'\n"
    )
    platform = specs.load(host={"IMGC_BASELINE": "false", "IMGC_GIB": "2", "IMGC_FORMAT": "raw"})
    assert (platform.base.baseline, platform.disk.size, platform.disk.timeout) == (False, 2 << 30, 2)
    assert platform.outputs[0].suffix == "raw"


def test_a_parents_template_sees_the_childs_fields(specs: Specs) -> None:
    specs.write("part.yaml", "schema: 1\nenvironment: {NAME: '{{ name }}-{{ base.release }}'}\n")
    specs.platform("extends: part.yaml\n")
    assert specs.load().environment == (("NAME", "one-bookworm"),)


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("{{ nothing }}", "E111"),
        ("{{ nothing | default(1) }}", "E111"),
        ("{% if false %}{{ nothing }}{% endif %}", "E111"),
        ("{{ base.nothing }}", "E111"),
        ("{{ name.upper }}", "E111"),
        ("{{ name[0] }}", "E111"),
        ("{{ outputs[0] }}", "E111"),
        ("{{ environment.GONE }}", "E111"),
        ("{{ elements[7] }}", "E111"),
        ("{{ elements.append }}", "E111"),
        ("{{ env }}", "E111"),
        ("{{ env.PATH }}", "E111"),
        ("{{ env.IMGC_UNSET }}", "E111"),
        ("{{ elements }}", "E110"),
        ("{{ environment }}", "E110"),
        ("{{ environment.THIS }}", "E110"),
        ("{{ 'a' + 1 }}", "E110"),
        ("{{ name() }}", "E110"),
        ("{{ ''.__class__ }}", "E110"),
        ("{{ base.__class__ }}", "E111"),
        ("{{ environment.__class__ }}", "E111"),
        ("{{ (elements | first).x }}", "E110"),
        ("{{ elements[environment.I] }}", "E110"),
        ("{{ elements[true] }}", "E110"),
        ("{{ elements[:1] }}", "E110"),
        ("{{ 2 ** 99 }}", "E110"),
        ("{{ 'a' * 99 }}", "E110"),
        ("{{ '%99d' % 1 }}", "E110"),
        ("{{ range(9) }}", "E110"),
        ("{{ 'a' | center(9) }}", "E110"),
        ("{{ elements | random }}", "E110"),
        ("{{ 1 is odd }}", "E110"),
        ("{% for x in elements %}{% endfor %}", "E110"),
        ("{% set x = 1 %}", "E110"),
        ("{% include 'x' %}", "E110"),
        ("{% macro m() %}{% endmacro %}", "E110"),
        ("{{", "E110"),
        ("{{ 'a }}", "E110"),
        ("{% endif %}", "E110"),
        ("{{ " + "(" * 3000 + " }}", "E110"),
        ("{{ " + "not " * 900 + "1 }}", "E110"),
        ("{{ name" + ".a" * 1800 + " }}", "E110"),
        ("{{ '" + "a" * 5000 + "' }}", "E110"),
    ],
)
def test_refuses(specs: Specs, template: str, code: str) -> None:
    quoted = template.replace("'", "''")
    specs.platform(f"elements: [vm]\nenvironment:\n  THIS: '{quoted}'\n")
    assert specs.found() == [f"one.yaml:8:9 {code}"]


def test_hints_name_what_was_meant(specs: Specs) -> None:
    specs.platform("environment:\n  A: '{{ base.relase }}'\n  BANANA: x\n  C: '{{ environment.BANAN }}'\n")
    assert [problem.hint for problem in specs.problems()] == [
        "Did you mean `base.release`?",
        "Did you mean `environment.BANANA`?",
    ]


def test_a_problem_is_reported_where_it_is_and_once(specs: Specs) -> None:
    specs.platform("environment:\n  A: '{{ environment.B }}'\n  B: '{{ environment.C }}'\n")
    assert specs.found() == ["one.yaml:8:6 E111"]


def test_growth_is_bounded(specs: Specs) -> None:
    """Each variable repeats the one before it ten times: a few lines that would fill any memory."""
    lines = ["  V0: 'aaaaaaaaaa{{ name }}'"]
    lines += [f"  V{i}: '" + f"{{{{ environment.V{i - 1} }}}}" * 10 + "'" for i in range(1, 20)]
    specs.platform("environment:\n" + "\n".join(lines) + "\n")
    started = time.monotonic()
    assert {problem.code for problem in specs.problems()} == {"E110"}
    assert time.monotonic() - started < 10


def test_thousands_of_problems_take_seconds(specs: Specs) -> None:
    lines = "".join(f"  V{i}: '{{{{ environment.W{i} }}}}'\n" for i in range(1000))
    specs.platform(f"environment:\n{lines}")
    started = time.monotonic()
    assert len(specs.problems()) == 1000
    assert time.monotonic() - started < 60


def test_all_text_together_is_bounded(specs: Specs) -> None:
    lines = "".join(f"  V{i}: '{{{{ environment.LONG }}}}'\n" for i in range(120))
    specs.platform(f"environment:\n{lines}  LONG: '{'x' * 10_000}'\n")
    problems = specs.problems()
    assert {problem.code for problem in problems} == {"E110"}
    assert 0 < len(problems) < 40


def test_the_filter_replace_is_bounded(specs: Specs) -> None:
    specs.platform("description: \"{{ 'a'" + " | replace('a', 'aaaaaaaaaa')" * 40 + ' }}"\n')
    started = time.monotonic()
    assert specs.found() == ["one.yaml:6:14 E110"]
    assert time.monotonic() - started < 10


def test_a_long_chain_of_references_is_refused(specs: Specs) -> None:
    lines = "".join(f"  V{i}: '{{{{ environment.V{i + 1} }}}}'\n" for i in range(2000))
    specs.platform(f"environment:\n{lines}  V2000: end\n")
    assert {problem.code for problem in specs.problems()} == {"E110"}


def test_host_values_that_are_not_text(specs: Specs) -> None:
    specs.platform("description: '{{ env.IMGC_X }}'\n")
    assert specs.found(host={"IMGC_X": "\udcff"}) == ["one.yaml:6:14 E110"]
    assert specs.found(host={"IMGC_X": "x" * 100_000}) == ["one.yaml:6:14 E110"]
