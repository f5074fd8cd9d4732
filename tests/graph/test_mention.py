"""What the text of a script is taken to mention."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgc.graph.mention import ANY, ELSEWHERE, HERE, ROOT, literal, matches, parse


def words(text):
    return parse(text.encode()).words


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("cp $(dirname $0)/../static/a /", (HERE, "..", "static", "a")),
        ('S="$(dirname "$0")/../static"', (HERE, "..", "static")),
        ("S=$(cd $(dirname ${BASH_SOURCE[0]}) && pwd)/x", (HERE, "x")),
        ("S=$(dirname $(dirname $0))/static", (HERE, "..", "static")),
        ("S=$(dirname $(readlink -f $0))/x", (HERE, "x")),
        ('. "${0%/*}/lib.sh"', (HERE, "lib.sh")),
        ("S=`dirname $0`/x", (HERE, "x")),
        ("find $TMP_HOOKS_PATH -name 'source-repository-*'", (ROOT,)),
        ("find $TMP_HOOKS_PATH -maxdepth 1 -name 'source-repository-*'", ("source-repository-" + ANY,)),
        ("T=$TMP_HOOKS_PATH\ncat $T/data/a", (ROOT, "data", "a")),
        ("cat $TMP_BUILD_DIR/$x", (ROOT, ANY)),
        ("cat <<EOF\n# $(cat $TMP_HOOKS_PATH/x)\nEOF", (ROOT, "x")),
        ('echo "\n# $(cat $TMP_HOOKS_PATH/x)\n"', (ROOT, "x")),
        ('"${TMP_HOOKS_PATH}"/bin/cache-url x', (ROOT, "bin", "cache-url")),
        ("cat $TMP_BUILD_DIR/hooks/x", (ROOT, "x")),
        ("cat /tmp/in_target.d/x", (ROOT, "x")),
        ('cp "${element_dir}/pkg-map" x', (ANY, "pkg-map")),
        ("ls ${a}-${b}-install/*", (ANY + "-" + ANY + "-install", ANY)),
        ("ls $TMP_MOUNT_PATH/etc", (ELSEWHERE, "etc")),
        ("cat /etc/passwd ~/x", (ELSEWHERE, "etc", "passwd")),
        ("x=$(cat $TMP_HOOKS_PATH/inner)", (ROOT, "inner")),
        ("x=${X:-$TMP_HOOKS_PATH/default}", (ROOT, "default")),
        ("cp name.{conf,d}", ("name." + ANY,)),
        ('open("package-installs.%s" % kind)', ("package-installs." + ANY,)),
        ("os.path.join(path, 'svc-map')", ("svc-map",)),
    ],
)
def test_words(text, word):
    assert word in words(text)


@pytest.mark.parametrize(
    "text", ["echo $(basename $0)", "awk '{print $0}' file", "# $(dirname $0)/x", "echo $01"]
)
def test_no_question_where_the_script_is(text):
    assert not parse(text.encode()).own_directory


@pytest.mark.parametrize("text", ["P=$0", "Path(__file__)", "cd ${0%/*}", "sys.argv[0]"])
def test_a_question_where_the_script_is(text):
    assert parse(text.encode()).own_directory


def test_comments_do_not_count():
    assert words("  # cat $TMP_HOOKS_PATH/x\ntrue\n") == {("true",)}


def test_finding_flat_files_by_name_is_not_the_whole_tree():
    text = "find $TMP_HOOKS_PATH -maxdepth 1 -name 'source-repository-*'"
    assert (ROOT,) not in words(text)
    assert (ROOT,) in words(text.replace("source-repository-", "s"))


def test_what_is_run_is_known():
    runs = parse(b". $(dirname $0)/lib.inc; bash -x $X; sudo $TMP_HOOKS_PATH/bin/y").runs
    assert {(HERE, "lib.inc"), (ANY,), (ROOT, "bin", "y")} <= runs


def test_the_tree_by_a_way_that_words_do_not_show():
    assert parse(b"#!/usr/bin/python3\nopen(os.environ['TMP_HOOKS_PATH'] + x)").unplaced
    assert not parse(b"cat $TMP_HOOKS_PATH/x").unplaced


def test_a_script_of_the_tree_is_where_it_is():
    mentions = parse(b"cat $(dirname $0)/x $(dirname $0)/../other/y").at(("bin",))
    assert {(ROOT, "bin", "x"), (ROOT, "other", "y")} <= mentions.words


def test_a_copy_of_a_script_is_somewhere_else():
    mentions = parse(b"cat $(dirname $0)/x").without_own_directory()
    assert not mentions.own_directory
    assert (ANY, "x") in mentions.words


def test_matching():
    assert matches("a", "a")
    assert not matches("a", "b")
    assert matches(f"{ANY}-install", "x-source-install")
    assert not matches(f"{ANY}.conf", "conf")
    assert literal("a") and not literal(f"{ANY}-.")


@given(
    st.binary(max_size=400)
    | st.text(st.sampled_from("$(){}`\"'/\\. abTMP_HOOKS_PATH0*\n#%[]-"), max_size=200)
)
def test_any_bytes_have_mentions(data):
    data = data if isinstance(data, bytes) else data.encode()
    mentions = parse(data)
    assert all(word and all(word) for word in mentions.words)
