"""Layers unpacked, packed and brought back: in memory and on disk."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from imgc.engine import layers as room
from imgc.engine.layers import unpacked
from imgc.engine.sandbox import Payload, Sandbox, State
from imgc.engine.store import Store

KEY = "a" * 64

MAKE = r"""
cd /imgc/build.0/mnt
mkdir -p bin kept gone
echo old > gone/file
echo text > plain && chown 12:34 plain && chmod 4755 plain && touch -d @1234567890.5 plain
ln plain second
ln -s plain link
mkfifo fifo
truncate -s 5M sparse
cp /bin/true bin/true && setcap cap_net_raw+ep bin/true
setfattr -n user.colour -v blue plain
mkdir 'a name with spaces'
"""
CHANGE = r"""
cd /imgc/build.0/mnt
rm -r gone
rm -r kept && mkdir kept && echo new > kept/file
rm link
"""
LOOK = r"""
cd /imgc/build.0/mnt
find . -mindepth 1 ! -type d -printf '%p %y %m %U:%G %s %n %T@ %l\n' | sort
find . -mindepth 1 -type d -printf '%p %y %m %U:%G %T@\n' | sort
stat -c '%h %b' plain sparse
getfattr --absolute-names -d plain
getcap bin/true
ls kept
"""


class Bench:
    """A store, and what builds it up and looks at it."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory / "cache")
        self.sandbox = Sandbox(self.store.downloads)

    def work(self):
        return self.store.work("bench", self.sandbox.remover(self.store))


@pytest.fixture
def bench(tmp_path: Path, root: None) -> Bench:
    return Bench(tmp_path)


def base(work) -> str:
    for name in ("mnt", "hooks", "out", "built"):
        work.directory(f"base/{name}")
    return str(work.path / "base")


def script(layers, work, text: str, state: State) -> list[str]:
    lines: list[str] = []
    payload = Payload(("sh", "-ec", text), {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"})
    outcome = layers.sandbox.run(payload, work.directory("run"), state=state, on_line=lines.append)
    assert outcome.status == 0, lines
    return lines


@pytest.mark.parametrize("made_in_memory", [True, False])
@pytest.mark.parametrize("read_in_memory", [True, False])
def test_a_layer_comes_back_as_it_was(bench: Bench, made_in_memory: bool, read_in_memory: bool) -> None:
    with bench.work() as work, unpacked(bench.sandbox, bench.store, work, memory=made_in_memory) as layers:
        bottom = base(work)
        script(layers, work, MAKE, State((bottom,), *layers.new("below")))
        layers.keep("below", {"step": "below"}, replace=False)
        first = str(layers.state("below"))
        script(layers, work, CHANGE, State((first, bottom), *layers.new(KEY)))
        layers.keep(KEY, {"step": "above"}, replace=False)
        before = script(layers, work, LOOK, State((str(layers.state(KEY)), first, bottom)))
        assert layers.meta(KEY)["step"] == "above"
        layers.settle()
    assert bench.store.has_layer(KEY)
    assert os.listdir(bench.store.cache / "work") == []
    with bench.work() as work, unpacked(bench.sandbox, bench.store, work, memory=read_in_memory) as layers:
        layers.bring([KEY, "below"])
        lowers = (str(layers.state(KEY)), str(layers.state("below")), base(work))
        after = script(layers, work, LOOK, State(lowers))
    assert after == before
    assert "kept: file" not in before and before[-1] == "file"
    assert any("cap_net_raw" in line for line in before)
    assert any('user.colour="blue"' in line for line in before)
    assert not any(line.startswith(("./gone", "./link")) for line in before)
    # Half a second stays half a second, two names stay one file, a hole stays a hole.
    assert any(line.startswith("./plain f 4755 12:34 5 2 1234567890.5") for line in before)
    assert "1 0" in before


def test_memory_is_seen_by_the_build_alone(bench: Bench) -> None:
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    with bench.work() as work, unpacked(bench.sandbox, bench.store, work, memory=True) as layers:
        script(layers, work, "touch /imgc/build.0/mnt/here", State((base(work),), *layers.new(KEY)))
        assert str(layers.state(KEY)).startswith(str(work.path / "memory"))
        assert not layers.state(KEY).exists()
        assert Path("/proc/self/mountinfo").read_text(encoding="utf-8") == mounts
        holder = layers.sandbox.holder
    assert not Path(f"/proc/{holder}").exists()


def test_layers_go_to_disk_when_memory_is_short(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ENOUGH", 2**60)
    with bench.work() as work, unpacked(bench.sandbox, bench.store, work, memory=True) as layers:
        script(layers, work, "touch /imgc/build.0/mnt/here", State((base(work),), *layers.new(KEY)))
        assert (layers.state(KEY) / "mnt/here").exists()


def test_a_layer_may_fill_the_memory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ENOUGH", 0)
    monkeypatch.setattr(room, "available_memory", lambda: int(200 * 2**20 / room.SHARE))
    with bench.work() as work, unpacked(bench.sandbox, bench.store, work, memory=True) as layers:
        state = State((base(work),), *layers.new(KEY))
        script(layers, work, "head -c 100M /dev/zero >/imgc/build.0/mnt/large", state)
        assert not layers.is_full(KEY)
        script(layers, work, "! head -c 150M /dev/zero >/imgc/build.0/mnt/larger", state)
        assert layers.is_full(KEY)


def test_memory_is_chosen_when_there_is_plenty(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for available, holder in ((room.WANTED, True), (room.WANTED - 1, False)):
        monkeypatch.setattr(room, "available_memory", lambda available=available: available)
        with bench.work() as work, unpacked(bench.sandbox, bench.store, work) as layers:
            assert bool(layers.sandbox.holder) == holder


def test_available_memory_is_less_than_all_memory() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < room.available_memory() <= total


def test_a_damaged_archive_is_an_error(bench: Bench) -> None:
    place = bench.store.layer(KEY)
    place.mkdir()
    (place / "state.tar").write_bytes(b"not an archive" * 100)
    with bench.work() as work, unpacked(bench.sandbox, bench.store, work, memory=False) as layers:
        with pytest.raises(room.ImgcError) as caught:
            layers.bring([KEY])
        assert caught.value.code == "E304"
    assert subprocess.run(["pgrep", "-f", str(bench.store.cache)], capture_output=True).returncode == 1
