"""Layers unpacked, packed and brought back: in memory and on disk."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from imgc.engine import layers as room
from imgc.engine.layers import LayerDamaged, unpacked
from imgc.engine.sandbox import Payload, Sandbox, State
from imgc.engine.store import Store
from imgc.engine.store_verification import verify

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
        layers.keep(KEY, {"step": "above", "inputs": ["below"]}, replace=False)
        before = script(layers, work, LOOK, State((str(layers.state(KEY)), first, bottom)))
        assert layers.meta(KEY)["step"] == "above"
        layers.settle(["below", KEY])
    assert bench.store.has_layer(KEY)
    assert os.listdir(bench.store.cache / "work") == []
    assert verify(bench.store, bench.sandbox.remover(bench.store)).damaged == ()
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


@pytest.fixture
def chain(bench: Bench) -> Bench:
    """A store with three layers, each on the one before."""
    with bench.work() as work, unpacked(bench.sandbox, bench.store, work, memory=False) as layers:
        make(layers, work, [])
    assert all(map(bench.store.has_layer, CHAIN))
    return bench


CHAIN = ["one", "two", "three"]


def make(layers, work, there: list[str], *, released: list[str] | None = None) -> None:
    """Make the layers of the chain that are not ``there``."""
    layers.bring(there)
    for number, key in enumerate(CHAIN):
        below = CHAIN[:number]
        if key in there:
            continue
        lowers = (*(str(layers.state(one)) for one in reversed(below)), base(work))
        text = f"head -c 100000 /dev/zero >/imgc/build.0/mnt/{key}; date +%N >/imgc/build.0/mnt/{key}-made"
        script(layers, work, text, State(lowers, *layers.new(key)))
        done = (lambda key=key: released.append(key)) if released is not None else lambda: None
        layers.keep(
            key, {"step": f"tiny/{key}", "mounts": [], "inputs": below[-1:]}, replace=False, done=done
        )
    layers.settle(CHAIN)


def flip(archive: Path) -> None:
    """Change one bit of a file as a failing disk does: its size and its time stay."""
    status = archive.stat()
    content = bytearray(archive.read_bytes())
    content[content.index(bytes(1000)) + 500] ^= 1
    archive.write_bytes(content)
    os.utime(archive, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("memory", [True, False])
def test_a_flipped_bit_is_found_and_the_layer_made_again(chain: Bench, memory: bool) -> None:
    """In the same build, as the engine does it; what lies on the layer is made again with it."""
    store = chain.store
    flip(store.layer("two") / "state.tar")
    assert store.has_layer("two"), "nothing but its bytes has changed"
    with chain.work() as work, unpacked(chain.sandbox, store, work, memory=memory) as layers:
        with pytest.raises(LayerDamaged) as raised:
            layers.bring(CHAIN)
        assert raised.value.keys == ("two",) and raised.value.code == "E621"
        assert [key for key in CHAIN if store.has_layer(key)] == ["one"]
        make(layers, work, ["one"])
        lowers = (*(str(layers.state(one)) for one in reversed(CHAIN)), base(work))
        text = "cd /imgc/build.0/mnt && ls && cmp two three && head -c 100000 /dev/zero | cmp two -"
        wanted = ["one", "one-made", "three", "three-made", "two", "two-made"]
        assert script(layers, work, text, State(lowers)) == wanted
    assert all(map(store.has_layer, CHAIN))
    assert os.listdir(store.cache / "work") == []


@pytest.mark.parametrize(
    "damage", ["cut short", "no archive", "no notes", "half of the notes", "another archive", "gone"]
)
def test_damage_of_each_kind_is_told_and_dropped(chain: Bench, damage: str) -> None:
    place = chain.store.layer("two")
    archive, notes = place / "state.tar", place / "meta.json"
    with chain.work() as work, unpacked(chain.sandbox, chain.store, work, memory=False) as layers:
        if damage == "cut short":
            os.truncate(archive, 5000)
        elif damage == "no archive":
            archive.unlink()
        elif damage == "no notes":
            notes.unlink()
        elif damage == "half of the notes":
            os.truncate(notes, notes.stat().st_size // 2)
        elif damage == "another archive":
            status = archive.stat()
            archive.write_bytes(b"not an archive".ljust(status.st_size))
            os.utime(archive, ns=(status.st_atime_ns, status.st_mtime_ns))
        else:
            place.rename(chain.store.cache / "elsewhere")
        with pytest.raises(LayerDamaged) as raised:
            layers.bring(CHAIN)
        assert raised.value.keys == ("two",)
        assert not place.exists()
        # The others are as good as ever.
        layers.bring(["one"])
        assert (layers.state("one") / "mnt" / "one").stat().st_size == 100_000
    found = subprocess.run(["pgrep", "-f", str(chain.store.cache)], capture_output=True)
    assert found.returncode == 1, found.stdout


def test_a_layer_that_is_removed_while_it_is_unpacked(chain: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another imgc, at the worst moment: it is unpacked all the same."""
    unpack = room.Layers._unpack

    def removing(self, *arguments):
        for key in CHAIN:
            chain.store.drop(chain.store.layer(key), chain.store.cache)
        return unpack(self, *arguments)

    monkeypatch.setattr(room.Layers, "_unpack", removing)
    with chain.work() as work, unpacked(chain.sandbox, chain.store, work, memory=False) as layers:
        layers.bring(CHAIN)
        assert (layers.state("three") / "mnt" / "three").stat().st_size == 100_000
        assert layers.meta("three")["step"] == "tiny/three"
    assert not any(map(chain.store.has_layer, CHAIN))


def test_a_layer_that_is_replaced_between_its_mounts_and_its_files(chain: Bench) -> None:
    """The one does not go with the other, though each is sound."""
    with (
        chain.work() as work,
        unpacked(chain.sandbox, chain.store, work, memory=False) as layers,
        chain.work() as elsewhere,
        unpacked(chain.sandbox, chain.store, elsewhere, memory=False) as others,
    ):
        assert layers.meta("three")["mounts"] == []
        others.bring(CHAIN[:2])
        lowers = (str(others.state("two")), str(others.state("one")), base(elsewhere))
        script(others, elsewhere, "true", State(lowers, *others.new("three")))
        others.keep("three", {"mounts": ["another"], "inputs": ["two"]}, replace=True)
        others.settle(["three"])
        with pytest.raises(LayerDamaged):
            layers.bring(CHAIN)
        assert chain.store.has_layer("three"), "there is nothing wrong with it"
        layers.bring(CHAIN)
        assert layers.meta("three")["mounts"] == ["another"]


def test_a_layer_that_is_gone_has_no_mounts_to_tell(chain: Bench) -> None:
    with chain.work() as work, unpacked(chain.sandbox, chain.store, work, memory=False) as layers:
        chain.store.drop(chain.store.layer("three"), work.path)
        with pytest.raises(LayerDamaged):
            layers.meta("three")


def test_a_layer_is_of_use_only_on_the_very_layer_it_was_made_on(chain: Bench) -> None:
    """Another build may have made the lower one anew, with another time in it."""
    with chain.work() as work, unpacked(chain.sandbox, chain.store, work, memory=False) as layers:
        script(layers, work, "echo another >/imgc/build.0/mnt/one", State((base(work),), *layers.new("one")))
        layers.keep("one", {"inputs": []}, replace=True)
        layers.settle(["one"])
    assert [key for key in CHAIN if chain.store.has_layer(key)] == ["one", "three"]
    # And it gives way to one that is made on the new one.
    with chain.work() as work, unpacked(chain.sandbox, chain.store, work, memory=False) as layers:
        make(layers, work, ["one"])
    assert all(map(chain.store.has_layer, CHAIN))


def test_claims_are_let_go_when_layers_are_stored_and_when_they_never_will_be(bench: Bench) -> None:
    released: list[str] = []
    with bench.work() as work, unpacked(bench.sandbox, bench.store, work, memory=False) as layers:
        make(layers, work, [], released=released)
        assert released == CHAIN
        layers.new("lost")
        layers.keep("lost", {"inputs": []}, replace=False, done=lambda: released.append("lost"))
        with pytest.raises(room.ImgcError):
            layers.settle(["lost"])
        assert released[3:] == ["lost"]
        # What lies on a layer that is not there is of no use.
        script(layers, work, "true", State((base(work),), *layers.new("above")))
        layers.keep("above", {"inputs": ["lost"]}, replace=False, done=lambda: released.append("above"))
        layers.settle(["above"])
        assert released[4:] == ["above"]
        assert not bench.store.has_layer("above")
    assert not bench.store.has_layer("lost")


def test_claims_are_let_go_when_packing_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, released = threading.Event(), threading.Event(), []
    with bench.work() as work, unpacked(bench.sandbox, bench.store, work, memory=False) as layers:

        def pack(key: str, into: Path) -> None:
            begun.set()
            go_on.wait(10)
            raise room.ImgcError("E304", "It could not.")

        monkeypatch.setattr(layers, "pack", pack)
        for key in ("first", "second"):
            layers.new(key)
            layers.keep(key, {}, replace=False, done=lambda key=key: released.append(key))
        assert begun.wait(10)
        threading.Timer(0.1, go_on.set).start()
    assert sorted(released) == ["first", "second"]
