"""The policy that packages for jobs are not installed, as far as it can be judged without an image."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imgc.verify.package_policy import judge, mentioned, of_dpkg, of_rpm

STATUS = """\
Package: base-files
Essential: yes
Status: install ok installed
Priority: required
Version: 12
Pre-Depends: awk

Package: mawk
Status: install ok installed
Priority: optional
Provides: awk (= 1.3), something

Package: tool
Status: install ok installed
Priority: optional
Depends: libtool1 (>= 2) | other,
 interpreter:any [amd64]
Recommends: helper

Package: libtool1
Status: install ok installed
Priority: optional

Package: interpreter
Status: install ok installed
Priority: optional

Package: helper
Status: install ok installed
Priority: optional

Package: gone
Status: deinstall ok config-files
Priority: optional

Package: stray
Status: install ok installed
Priority: optional
Depends: strayling

Package: strayling
Status: install ok installed
Priority: optional
"""
NAMES = ["mawk", "libtool1", "interpreter", "helper", "stray", "strayling", "tool", "gone", "absent"]
ASKED = {name: [f"org/{name}@master"] for name in NAMES}


def names(text: str, wanted: list[str]) -> list[str]:
    return [str(problem.message).split()[1] for problem in judge(of_dpkg(text), ASKED, wanted)]


def test_what_the_base_needs_may_be_installed() -> None:
    assert "mawk" not in names(STATUS, [])


def test_what_elements_ask_for_may_be_installed_with_all_that_it_needs() -> None:
    assert names(STATUS, []) == ["helper", "interpreter", "libtool1", "stray", "strayling", "tool"]
    assert names(STATUS, ["tool"]) == ["stray", "strayling"]
    assert names(STATUS, ["tool", "stray"]) == []


def test_what_is_asked_for_by_a_name_that_it_provides_may_be_installed() -> None:
    assert "mawk" not in names(
        STATUS.replace("Essential: yes", "X: y").replace("required", "optional"), ["awk"]
    )


def test_a_removed_package_is_not_installed() -> None:
    assert "gone" not in names(STATUS, [])


def test_the_message_says_who_asks() -> None:
    asked = {"stray": [f"org/p{number}@master" for number in range(7)]}
    (problem,) = judge(of_dpkg(STATUS), asked, [])
    assert problem.code == "E658"
    assert "org/p0@master" in problem.message
    assert "and 2 others" in problem.message


def test_a_package_that_nobody_asks_for_is_no_matter_of_the_cache() -> None:
    assert judge(of_dpkg(STATUS), {}, []) == []


RPM = """\
N\tbash
P\tbash\tbash
F\tbash\t/usr/bin/sh
R\tbash\tlibtinfo.so.6()(64bit)
R\tbash\trpmlib(FileDigests)
N\tncurses-libs
P\tncurses-libs\tlibtinfo.so.6()(64bit)
N\ttool
R\ttool\t/opt/helper
R\ttool\t((plugin >= 2 with plugin(x)) if bash)
N\thelper
F\thelper\t/opt/helper
F\thelper\t/opt/other
N\tplugin
P\tplugin\tplugin
N\tstray
P\tstray\tstray
N\tgpg-pubkey
N\tgpg-pubkey
"""


def test_rpm_packages_need_each_other_by_names_files_and_libraries() -> None:
    asked = {name: ["org/a@b"] for name in ("ncurses-libs", "tool", "helper", "plugin", "stray")}
    judged = [
        [one.message.split()[1] for one in judge(of_rpm(RPM), asked, wanted)] for wanted in ([], ["tool"])
    ]
    assert judged == [["helper", "plugin", "stray", "tool"], ["stray"]]


def test_a_hook_that_speaks_of_a_package_has_a_reason_for_it() -> None:
    hook = "# gcc is not wanted\napt-get install -y git ${EXTRA:-jq} libfoo-dev=1.0  # curl\n"
    assert mentioned(["gcc", "git", "jq", "libfoo-dev", "curl", "libfoo"], [hook]) == {
        "git",
        "jq",
        "libfoo-dev",
    }


@given(st.text(alphabet=st.sampled_from("Package: Status\n\t,|:()[] installed-a"), max_size=300))
def test_any_text_is_read(text: str) -> None:
    judge(of_dpkg(text), ASKED, [])
    judge(of_rpm(text), ASKED, [])
