"""What counts for a hook, compared with what a real shell does: whenever an output differs, so must the key.

Small elements are generated, compiled, laid out as the engine lays them out and run by the engine's own run-hook,
twice: before and after a change to one variable or one file.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from imgc.engine.hooks_tree import materialise
from imgc.engine.protocol import dib_env, driver_variables
from imgc.graph import compile_plan, keys, lower
from imgc.graph.plan import dib_directory

ROOT = Path(__file__).parents[2]
RUN_HOOK = ROOT / "imgc/engine/sandbox_files/run-hook"

NAMES = ("DIB_A", "DIB_B", "DIB_AB", "IMGC_C", "COLOUR")
VALUES = ("1", "2", "x y", "DIB_B", "echo ${DIB_AB:-}", "")

BOUNDED = settings(
    max_examples=int(os.environ.get("IMGC_TEST_EXAMPLES", "60")),
    deadline=None,
    derandomize=True,
    # Making a failure smaller would start shells for minutes.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

name = st.sampled_from(NAMES)

#: Statements of environment.d; X is assigned, Y is read.
STATEMENTS = (
    "export X=${X:-1}",
    "export X=${Y:-}",
    'export X="a ${Y:-b}"',
    "export X=$Y",
    "X=${Y:-}",
    "X+=${Y:-}",
    "unset X",
    "export X=${Y-none} # not $COLOUR",
    'if [ "${Y:-}" = "1" ]; then\n    export X=2\nelse\n    export Z=3\nfi',
    'if [[ "${Y:-}" =~ (1|2) ]] && [ -n "${Z:-}" ]; then export X=$Z; fi',
    'case "${Y:-}" in\n    1 | 2) export X=one ;;\n    *) export X=other ;;\nesac',
    '[ -n "${Y:-}" ] && export X=1 || export X=0',
    '[ -z "${Y:-}" ] && export X=1',
    "export X=$(echo \"${Y:-}\" | tr 1 '2')",
    "export X=$(printenv Y || true)",
    'if [ "${Y:-}" = 2 ]; then exit 3; fi',
    'if [ "${Y:-}" = 2 ]; then return 0; fi',
    "for word in ${Y:-}; do export X=$word; done",
    'while read -r line; do export X=$line; done <<< "${Y:-}"',
    "read -r X <<EOF || true\n# ${Y:-}\nEOF\nexport X",
    'set_it() { export X="${Y:-}"; }\nset_it',
    "set -a; X=${Y:-}; set +a",
    'export "X=${Y:-}"',
    'declare -x X="${Y:-}"',
    "words=(${Y:-} b); export X=${words[0]}",
    "name=X; export $name=${Y:-}",
    "name=Y; export X=${!name:-}",
    'eval "export X=\\${Y:-}"',
    'source "$TMP_HOOKS_PATH/data/snippet"',
    ": ${Y:?must be set}",
    "export X=${Y:=5}",
    "PATH=$PATH:/${Y:-}",
    "export X=`echo ${Y:-}`",
    'export X=$(env | grep "^Y=" || true)',
)

#: What a hook does; X is read.
READERS = (
    'echo "${X:-}"',
    "echo $X",
    '[ -n "${X+set}" ] && echo set',
    "cat <<EOF\n# made for ${X:-}\nEOF",
    "cat <<'EOF' | bash\n# not read\necho ${X:-}\nEOF",
    'echo "\n# ${X:-}\n"',
    "bash -c 'echo ${X:-}'",
    'bash -c "${X:-true}"',
    '. "$(dirname "$0")/helper.inc"',
    '. "${0%/*}/../data/snippet"; echo ${X:-}',
    '"$TMP_HOOKS_PATH/bin/helper"',
    'for one in "$TMP_HOOKS_PATH"/bin/*; do "$one"; done',
    'for one in "$TMP_HOOKS_PATH"/data/*; do . "$one"; done; echo ${X:-}',
    "printenv X || true",
    "printenv | grep -E '^(DIB|IMGC|COLOUR)' | sort",
    "env | grep -E '^(DIB_A|IMGC)' | sort",
    "env -0 | tr '\\0' '\\n' | grep ^DIB_ | sort",
    "export -p | grep -E 'DIB_A|DIB_B|IMGC_C'",
    "declare -x | grep -E 'DIB_A|DIB_B|IMGC_C'",
    "set | grep -E '^(DIB_A|DIB_B|IMGC_C)'",
    "(set) | grep -E '^(DIB_A|DIB_B|IMGC_C)'",
    "compgen -e | grep -E '^(DIB_A|DIB_B|IMGC_C)' | sort",
    "for one in ${!DIB_*}; do case $one in DIB_A*|DIB_B) echo $one ${!one};; esac; done",
    'for one in ${!IMGC_@}; do echo "$one"; done; echo ${IMGC_C:-}',
    'name=X; echo "${!name:-}"',
    'part=A; name=DIB_$part; echo "${!name:-}"',
    'part=DIB; name=${part}_A; echo "${!name:-}"',
    'name=$(cat "$TMP_HOOKS_PATH/data/names"); echo "${!name:-}"',
    'declare -n other=X; echo "${other:-}"',
    'part=_A; eval "echo \\${DIB$part:-}"',
    'part=DIB_A; bash -c "echo \\${$part:-}"',
    'echo "${DIB_ENV}" | grep -E "DIB_A|DIB_B" || true',
    'echo "$((${#X}))" 2>/dev/null || true',
    "tr '\\0' '\\n' < /proc/self/environ | grep -E '^(DIB_A|DIB_B|IMGC_C)' | sort",
    "awk 'BEGIN { print ENVIRON[\"X\"] }'",
    'awk \'BEGIN { n = "DIB" "_A"; print ENVIRON[n] }\'',
    "python3 -c 'import os; print(os.environ.get(\"X\"))'",
    "python3 -c \"import os; print(os.environ.get('DIB' + '_A'))\"",
    'python3 -c \'from os import environ as e; print([e[k] for k in sorted(e) if k[:4] in ("DIB_", "IMGC")][:3])\'',
    'while read -r word; do echo "${!word:-}"; done < "$TMP_HOOKS_PATH/data/names"',
    'read_it() { echo "${!1:-}"; }; read_it DIB_A',
    "echo nothing",
)


def filled(template: str, **names: str) -> str:
    """A template with names for its letters: X, Y, Z as words of their own."""
    return re.sub(r"(?<![\w\\])[XYZ](?!\w)", lambda letter: names.get(letter[0], letter[0]), template)


statement = st.builds(
    lambda text, x, y, z: filled(text, X=x, Y=y, Z=z), st.sampled_from(STATEMENTS), name, name, name
)
reader = st.builds(lambda text, x: filled(text, X=x), st.sampled_from(READERS), name)
environment = st.dictionaries(name, st.sampled_from(VALUES), max_size=4)


def ran(plan, base: Path, phase: str, hook: str):
    """What a hook writes and how it ends, run as the engine runs it."""
    shutil.rmtree(base, ignore_errors=True)
    materialise(plan, base, dib_directory() / "lib")
    hooks = base / "hooks"
    env = {
        **{
            name: value
            for name, value in driver_variables(plan, 0).items()
            if name.startswith(("DIB_", "IMAGE_"))
        },
        "DIB_ENV": dib_env(plan.environment),
        "PATH": os.environ["PATH"],
        "LC_ALL": "C",
        "TMP_HOOKS_PATH": str(hooks),
        "TMP_BUILD_DIR": str(base),
        **dict(plan.environment),
    }
    done = subprocess.run(
        ["bash", str(RUN_HOOK), str(hooks), phase, hook],
        env=env,
        cwd=base / "out",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def key_of_hook(plan, phase: str, hook: str) -> str:
    return keys(lower(plan))[f"{plan.platform.name}/{phase}/{hook}"]


@pytest.fixture
def directories(tmp_path):
    """Where the elements of one example are, and where it is run."""

    class Directories:
        elements, base, shipped = tmp_path / "elements", tmp_path / "base", tmp_path / "shipped"

    Directories.shipped.mkdir()
    return Directories


def laid_out(elements: Path, files: dict[str, str]) -> None:
    """An operating system and one element with these files."""
    shutil.rmtree(elements, ignore_errors=True)
    files = {
        "system/element-provides": "operating-system\n",
        **{f"one/{dest}": text for dest, text in files.items()},
    }
    for dest, text in files.items():
        path = elements / dest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)


def compiled_at(directories, platform, values: dict[str, str]):
    platform = replace(
        platform,
        elements=("system", "one"),
        element_paths=(str(directories.elements),),
        environment=tuple(sorted(values.items())),
    )
    return compile_plan(platform, elements_dir=directories.shipped)


@BOUNDED
@example(
    files=["export DIB_A=${DIB_B:-}"],
    snippet="",
    lines=['echo "${DIB_A:-}"'],
    values={},
    changed="DIB_B",
    to="1",
)
@example(
    files=[],
    snippet="",
    lines=['bash -c "${DIB_A:-true}"'],
    values={"DIB_A": VALUES[4]},
    changed="DIB_AB",
    to="1",
)
@given(
    files=st.lists(statement, max_size=4),
    snippet=statement,
    lines=st.lists(reader, min_size=1, max_size=2),
    values=environment,
    changed=name,
    to=st.sampled_from(VALUES) | st.none(),
)
def test_a_variable_that_changes_what_a_hook_writes_changes_its_key(
    directories, base_platform, files, snippet, lines, values, changed, to
):
    laid_out(
        directories.elements,
        {
            **{f"environment.d/{10 + number}-x": f"{text}\n" for number, text in enumerate(files)},
            "data/snippet": f"{snippet}\n",
            "data/names": "DIB_A\n",
            "root.d/helper.inc": "echo ${DIB_A:-}\n",
            "bin/helper": "#!/bin/bash\necho ${IMGC_C:-}\n",
            "root.d/10-x": "#!/bin/bash\nset -eu\n" + "\n".join(lines) + "\n",
        },
    )
    other = {name: value for name, value in values.items() if name != changed}
    if to is not None:
        other[changed] = to
    outputs, found = [], []
    for one in (values, other):
        plan = compiled_at(directories, base_platform, one)
        outputs.append(ran(plan, directories.base, "root.d", "10-x"))
        found.append(key_of_hook(plan, "root.d", "10-x"))
    assert outputs[0] == outputs[1] or found[0] != found[1]


# --- files ----------------------------------------------------------------------------------------------------------

#: Ways to a file of the hooks tree.
TAKERS = (
    'cat "$TMP_HOOKS_PATH/data/a"',
    'cat "$TMP_HOOKS_PATH"/data/*',
    'cat "${TMP_HOOKS_PATH}/data/${DIB_A:-a}"',
    'cat "$TMP_HOOKS_PATH/${DIB_A:-data/a}"',
    'cd "$TMP_HOOKS_PATH"; cat data/a; cat "${DIB_A:-data/b}"',
    'tree=$TMP_HOOKS_PATH; dir=data; cat "$tree/$dir/b"',
    "tree=$TMP_HOOKS_PATH\ncat $tree/data/b",
    'cat "$TMP_BUILD_DIR/hooks/data/b"',
    'dir=hooks; cat "$TMP_BUILD_DIR/$dir/data/b"',
    'cat "$(dirname "$0")/../data/a"',
    'dir=$(dirname "$0"); cat "$dir/../data/b"',
    'dir=$(dirname "$0"); x=..; cat "$dir/$x/data/b"',
    'dir=$(cd "$(dirname "$0")/.." && pwd); cat data/a 2>/dev/null || cat $dir/${DIB_A:-data/b}',
    '. "$(dirname "$0")/helper.inc"',
    '. "$TMP_HOOKS_PATH/data/sourced"',
    "for one in $TMP_HOOKS_PATH/data/s*; do . $one; done",
    '"$TMP_HOOKS_PATH/bin/helper"',
    'bash "$TMP_HOOKS_PATH/data/script"',
    'cat "$DIB_DIR/b"',
    "cat $DIB_DIR/*",
    "cat <<EOF\n# $(cat $TMP_HOOKS_PATH/data/a)\nEOF",
    'ls "$TMP_HOOKS_PATH/install.d"',
    'cat "$TMP_HOOKS_PATH"/install.d/*',
    'cat "$TMP_HOOKS_PATH/install.d/20-y"',
    "cat $(dirname $0)/*-z",
    'find "$TMP_HOOKS_PATH" -type f -exec cat {} + | sort | sha256sum',
    'find "$TMP_HOOKS_PATH" -name "a*" -exec cat {} +',
    "find \"$TMP_HOOKS_PATH\" -maxdepth 1 -name 'top-*' | xargs cat",
    'grep -r . "$TMP_HOOKS_PATH" | wc -c',
    'python3 "$(dirname "$0")/program.py"',
    "python3 -c \"import os; print(open(os.environ['TMP_HOOKS_PATH'] + '/da' + 'ta/b').read())\"",
    'tar -C "$TMP_HOOKS_PATH" -c data | wc -c; cat $TMP_HOOKS_PATH/data/[ab]',
    "cp -r $TMP_HOOKS_PATH/data copy; cat copy/b",
    "stat -c %a $TMP_HOOKS_PATH/bin/helper",
    "echo nothing",
)

FILES = {
    "data/a": "a\n",
    "data/b": "b\n",
    "data/sourced": 'cat "$TMP_HOOKS_PATH/other/c"\n',
    "data/script": 'cat "$(dirname "$0")/../other/c"\n',
    "other/c": "c\n",
    "top-list": "t\n",
    "root.d/helper.inc": 'cat "$(dirname "${BASH_SOURCE[0]}")/../other/d"\n',
    "root.d/program.py": "import module\nmodule.show()\n",
    "root.d/module.py": "def show():\n    print(1)\n",
    "root.d/20-z": "#!/bin/sh\n",
    "other/d": "d\n",
    "bin/helper": '#!/bin/bash\ncat "$(dirname "$0")/../other/d" "$(dirname "$0")/list"\n',
    "bin/list": "l\n",
    "install.d/20-y": "#!/bin/sh\n",
    "README.rst": "Read\n",
    "environment.d/10-dir": 'export DIB_DIR="$TMP_HOOKS_PATH/data"\n',
}


@BOUNDED
@given(
    lines=st.lists(st.sampled_from(TAKERS), min_size=1, max_size=2),
    changed=st.sampled_from(sorted(set(FILES) - {"environment.d/10-dir"})),
    values=st.sampled_from([{}, {"DIB_A": "b"}, {"DIB_A": "data/b"}]),
    executable=st.booleans(),
)
def test_a_file_that_changes_what_a_hook_writes_changes_its_key(
    directories, base_platform, lines, changed, values, executable
):
    files = {**FILES, "root.d/10-x": "#!/bin/bash\nset -u\n" + "\n".join(lines) + "\n"}
    outputs, found = [], []
    for text in (FILES[changed], f"{FILES[changed]}# changed\n"):
        laid_out(directories.elements, {**files, changed: text})
        if executable and text != FILES[changed]:
            (directories.elements / "one" / changed).chmod(0o755)
        plan = compiled_at(directories, base_platform, values)
        outputs.append(ran(plan, directories.base, "root.d", "10-x"))
        found.append(key_of_hook(plan, "root.d", "10-x"))
    assert outputs[0] == outputs[1] or found[0] != found[1]


@pytest.mark.parametrize("line", TAKERS)
def test_every_way_to_a_file_is_seen_for_every_file(directories, base_platform, line):
    """The same for all pairs: how a file is taken, and which one changes."""
    files = {**FILES, "root.d/10-x": f"#!/bin/bash\nset -u\n{line}\n"}
    laid_out(directories.elements, files)
    plan = compiled_at(directories, base_platform, {})
    output, key = ran(plan, directories.base, "root.d", "10-x"), key_of_hook(plan, "root.d", "10-x")
    missed = []
    for changed in sorted(FILES):
        path = directories.elements / "one" / changed
        path.write_text(f"{FILES[changed]}# changed\n")
        plan = compiled_at(directories, base_platform, {})
        if (
            key_of_hook(plan, "root.d", "10-x") == key
            and ran(plan, directories.base, "root.d", "10-x") != output
        ):
            missed.append(changed)
        path.write_text(FILES[changed])
    assert missed == []
