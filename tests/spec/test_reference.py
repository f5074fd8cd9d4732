"""The JSON Schema and the documentation say what the loader does."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from imgc import spec
from imgc.errors import Collector
from imgc.spec.reader import parse
from imgc.spec.settings import HOST_VARIABLES, LABEL_LENGTH, SPEC
from imgc.spec.template import _FILTERS, _TESTS, MOST_RESULT, MOST_SOURCE
from imgc.spec.validate import Validator

from .conftest import Specs

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs/spec.md").read_text()
SHIPPED = sorted((ROOT / "specs").rglob("*.yaml"))

VALIDATOR = jsonschema.Draft202012Validator(spec.json_schema())


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(spec.json_schema())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_fit_the_schema(path: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(path.read_text()))


#: Values to try for every setting.  None of them is out of the range of a size or a number: ranges of sizes are
#: beyond a pattern.
CANDIDATES: list[Any] = [
    None, True, False, 0, 1, 7, -1, 1.5, "", "x", "text with spaces", "4 GiB", "4 GB", "auto", "UPPER", "-dash",
    "gpt", "efi", "ext4", "zstd", "none", "cloud", "minimal", "amd64", "qcow2", "1.1", "http://mirror.example/debian",
    "host", "{{ name }}", "common/part.yaml", [], ["x"], ["x", 1], [["x"]], ["{{ name }}"], {}, {"x": "y"}, {"A": 1},
    {"A": True}, {"1": "x"}, [{"format": "raw"}], [{"format": "qcow2", "compat": "1.1"}], [{"variant": "fixed"}],
    [{"format": "vhd", "variant": "fixed"}, "raw"], [{"format": "raw", "variant": "fixed"}], ["vdi"],
    [{"format": "{{ name }}", "variant": "fixed"}],
]  # fmt: skip


def settings() -> list[tuple[str, ...]]:
    from imgc.spec.types import Section

    inner = [(s.key, i.key) for s in SPEC.settings if isinstance(s.type, Section) for i in s.type.settings]
    return [*((s.key,) for s in SPEC.settings), *inner, ("unknown",), ("disk", "unknown")]


@pytest.mark.parametrize("path", settings(), ids=".".join)
def test_the_schema_accepts_what_the_loader_accepts(path: tuple[str, ...]) -> None:
    for value in CANDIDATES:
        document: dict[str, Any] = {"schema": 1}
        document |= {path[0]: value} if len(path) == 1 else {path[0]: {path[1]: value}}
        text = yaml.safe_dump(document, default_flow_style=True)
        problems = Collector()
        tree = parse(text.encode(), "x.yaml", problems)
        assert tree is not None
        Validator(problems, partial=True).spec(tree)
        version = path == ("schema",) and value in (0, 7)  # another version is a problem of its own
        assert VALIDATOR.is_valid(document) == (not problems.problems and not version), text


def test_the_reference_is_current() -> None:
    assert spec.with_reference(PAGE) == PAGE, "run docs/generate.py"


def test_a_page_without_the_marks() -> None:
    with pytest.raises(ValueError, match="lacks"):
        spec.with_reference("# A page\n")


def test_every_setting_is_documented() -> None:
    for path in settings():
        if path[-1] != "unknown":
            assert f"| `{'.'.join(path)}` |" in spec.reference_markdown()


def test_the_page_names_limits_and_lists_as_they_are() -> None:
    for name in (*_FILTERS, *(test for test in _TESTS if test not in ("eq", "ne")), *HOST_VARIABLES):
        assert f"`{name}`" in PAGE or f"`{name.rstrip('*')}`" in PAGE
    for number in (MOST_SOURCE, MOST_RESULT, *LABEL_LENGTH.values()):
        assert str(number) in PAGE


def examples(page: str) -> list[tuple[str, str]]:
    """The examples of a page: file name and text."""
    blocks = re.findall(r"```yaml\n# specs/(\S+)\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == page.count("```yaml")
    return blocks


def ci_image(specs: Specs) -> spec.Platform:
    """The example of docs/ci-image.md, beside the shipped specs."""
    shutil.copytree(ROOT / "specs", specs.directory, dirs_exist_ok=True)
    for name, text in examples((ROOT / "docs/ci-image.md").read_text()):
        specs.write(name, text)
    return specs.load("ci-bookworm")


def test_the_ci_image_loads(specs: Specs) -> None:
    platform = ci_image(specs)
    assert {"cache-bindep", "install-distro-packages", "simple-init"} <= set(platform.elements)
    assert platform.caches.git.projects == ("https://review.example.org/projects.yaml",)
    assert platform.caches.bindep.fallback == str(specs.directory / "common/bindep-fallback.txt")
    assert [file.name or file.url.rpartition("/")[2] for file in platform.caches.files.files] == [
        "get-pip.py",
        "cirros-0.6.3-x86_64-disk.img",
    ]


def test_examples_load(specs: Specs) -> None:
    for name, text in examples(PAGE):
        specs.write(name, text)
    loaded = {found.name: specs.load(found.name) for found in spec.find(specs.directory)}
    assert loaded["example"].elements == ("growroot", "openssh-server")
    assert loaded["example"].packages == ("git",)
    assert [output.option("compression") for output in loaded["example-small"].outputs] == ["zlib"]
    assert dict(loaded["templates"].environment) == {
        "IMAGE_TITLE": "debian trixie for amd64",
        "CONSOLE": "ttyS0",
    }


def test_shipped_platforms() -> None:
    for found in spec.find(ROOT / "specs"):
        platform = spec.load(found.name, specs_dir=ROOT / "specs", host_environment={})
        assert platform.name == found.name
        assert {"simple-init", "growroot", "openssh-server"} <= set(platform.elements)
        assert "cloud-init" not in platform.elements
        assert not platform.base.baseline
        assert (platform.disk.partitioning, platform.disk.boot) == ("gpt", "both")
        assert [output.suffix for output in platform.outputs] == ["qcow2", "vhd"]
        assert dict(platform.environment)["DIB_BOOTLOADER_SERIAL_CONSOLE"] == "ttyS0,115200"


def test_shipped_parts_are_used(specs: Specs) -> None:
    used = {Path(place.file).name for place in ci_image(specs).places.values()}
    for found in spec.find(ROOT / "specs"):
        places = spec.load(found.name, specs_dir=ROOT / "specs", host_environment={}).places.values()
        used |= {Path(place.file).name for place in places}
    assert {path.name for path in SHIPPED} <= used
