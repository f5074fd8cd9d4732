"""Claims, uses, and the lock that holds removal off: between threads, between processes, when a holder is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imgc import process
from imgc.engine import store_locks
from imgc.engine.store import Store
from imgc.errors import ImgcError

ROOT = Path(__file__).resolve().parents[2]

#: Another process that takes something of the store, says so, and gives it back when its stdin is closed.
OTHER = """\
import sys
from pathlib import Path
from imgc.engine import store_locks
from imgc.engine.store import Store
store = Store(Path(sys.argv[1]))
with {what}:
    print("ready", flush=True)
    sys.stdin.read()
"""

#: Another process that counts up a number in a file, many times, each time under the claim.
COUNTING = """\
import sys
from pathlib import Path
from imgc.engine.store import Store
store = Store(Path(sys.argv[1]))
counter = store.cache / "counter"
for _ in range(100):
    with store.claim("k"):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


@contextmanager
def other(store: Store, what: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds ``what`` meanwhile."""
    argv = [sys.executable, "-c", OTHER.format(what=what), str(store.cache)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, text=True, env=environment, **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout.readline() == "ready\n"
        yield child
        child.stdin.close()
        child.wait(10)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> process.Interrupt:
    """The latch of this test alone."""
    latch = process.Interrupt()
    monkeypatch.setattr(process, "INTERRUPT", latch)
    return latch


def locks(store: Store) -> list[str]:
    return sorted(path.name for path in (store.cache / "locks").iterdir())


def test_a_claim_leaves_nothing_behind(store: Store) -> None:
    with store.claim("k") as claim:
        assert locks(store) == ["k"]
        assert (store.cache / "locks" / "k").read_text() == f"process {os.getpid()}\n"
    claim.release()
    assert locks(store) == []


def test_a_second_release_does_not_take_the_next_holders_claim(store: Store) -> None:
    first = store.claim("k")
    first.release()
    with store.claim("k"):
        first.release()
        assert locks(store) == ["k"]
        with other(store, "store.claim('another')"):
            assert locks(store) == ["another", "k"]


def test_threads_wait_for_each_other(store: Store) -> None:
    claim, told, got = store.claim("k"), [], threading.Event()

    def wait() -> None:
        with store.claim("k", waiting=told.append):
            got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not got.wait(0.3)
    assert told == [f"process {os.getpid()}"]
    claim.release()
    assert got.wait(5)
    thread.join()
    assert told == [f"process {os.getpid()}"]
    assert locks(store) == []


def test_a_claim_of_a_killed_process_is_free(store: Store) -> None:
    told: list[str] = []
    with other(store, "store.claim('k')") as child:
        threading.Timer(0.3, child.kill).start()
        since = time.monotonic()
        with store.claim("k", waiting=told.append):
            assert 0.2 < time.monotonic() - since < 5
            assert told == [f"process {child.pid}"]
    assert locks(store) == []


def test_a_wait_ends_with_an_interrupt(store: Store, interrupt: process.Interrupt) -> None:
    with other(store, "store.claim('k')"):
        threading.Timer(0.2, interrupt.set).start()
        since = time.monotonic()
        with pytest.raises(ImgcError) as raised:
            store.claim("k")
        assert raised.value.code == "E307"
        assert time.monotonic() - since < 2


def test_nobody_holds_a_claim_that_somebody_else_has(store: Store) -> None:
    """Three processes and a thread take and give back one claim as fast as they can; no count is lost."""
    (store.cache / "counter").write_text("0")
    argv = [sys.executable, "-c", COUNTING, str(store.cache)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    children = [subprocess.Popen(argv, env=environment) for _ in range(3)]
    for _ in range(100):
        with store.claim("k"):
            count = int((store.cache / "counter").read_text())
            (store.cache / "counter").write_text(str(count + 1))
    assert [one.wait(60) for one in children] == [0, 0, 0]
    assert (store.cache / "counter").read_text() == "400"
    assert locks(store) == []


def test_a_claim_is_not_inherited(store: Store) -> None:
    """A program that a step left running must not hold its key."""
    claim = store.claim("k")
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        claim.release()
        with store.claim("k", waiting=pytest.fail):
            child.kill()


def test_locks_of_dead_holders_are_removed_and_others_stay(store: Store) -> None:
    with other(store, "store.claim('dead')") as child:
        child.kill()
        child.wait()
    with store.claim("alive"):
        assert locks(store) == ["alive", "dead"]
        for name in ("alive", "dead"):
            store_locks.remove_if_free(store.cache / "locks" / name)
        assert locks(store) == ["alive"]


def test_the_keys_of_a_build_are_known_to_others(store: Store) -> None:
    with other(store, "store.using('one', ['a', 'b'])"), store.using("two", ["b"]) as use:
        use.add(["c"])
        with store_locks.removing(store.cache):
            found = store_locks.keys_in_use(store.cache)
    assert sorted(map(sorted, found.values())) == [["a", "b"], ["b", "c"]]
    assert sorted(name.partition("-")[0] for name in found) == ["one", "two"]
    assert list((store.cache / "inuse").iterdir()) == []


def test_the_keys_of_a_killed_build_are_free(store: Store) -> None:
    with other(store, "store.using('one', ['a'])") as child:
        child.kill()
        child.wait()
    assert len(list((store.cache / "inuse").iterdir())) == 1
    assert store_locks.keys_in_use(store.cache, reap=False) == {}
    assert len(list((store.cache / "inuse").iterdir())) == 1
    with store_locks.removing(store.cache):
        assert store_locks.keys_in_use(store.cache) == {}
    assert list((store.cache / "inuse").iterdir()) == []


def test_removal_waits_for_those_who_look(store: Store) -> None:
    with other(store, "store_locks.steady(store.cache)") as child:
        with store_locks.steady(store.cache):
            pass
        with store_locks.removing(store.cache, wait=False) as got:
            assert not got
        threading.Timer(0.3, lambda: child.stdin and child.stdin.close()).start()
        since = time.monotonic()
        with store_locks.removing(store.cache) as got:
            assert got
            assert time.monotonic() - since > 0.2


def test_a_build_does_not_begin_while_others_remove(store: Store, interrupt: process.Interrupt) -> None:
    with other(store, "store_locks.removing(store.cache)"):
        threading.Timer(0.2, interrupt.set).start()
        with pytest.raises(ImgcError, match="interrupted"), store.using("one", ["a"]):
            pytest.fail("it began")
    assert list(store.cache.glob("inuse/*")) == []
