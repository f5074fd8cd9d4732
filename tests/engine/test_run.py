"""The main loop: what runs when, what platforms share, and how far a failure reaches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import networkx as nx
import pytest

from imgc import process
from imgc.engine import events, run
from imgc.engine.budget import Budget
from imgc.engine.layers import LayerDamaged
from imgc.engine.run import Lane
from imgc.engine.step_runner import Job
from imgc.errors import ImgcError
from imgc.graph.step import Kind, Step

FREE = Budget(None, None)


@dataclass
class Shop:
    """Stands where steps would really run: takes notes, and does what it is told for a step."""

    orders: Mapping[str, Callable[[], None]] = field(default_factory=dict)
    began: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run_step(self, _job: Job, step: Step) -> bool:
        with self.lock:
            self.began.append(step.id)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.orders.get(step.id, lambda: None)()
        finally:
            with self.lock:
                self.at_once -= 1
        return True


class NotedLane(Lane):
    """A lane that says when it was finished."""

    finished = 0
    again: Sequence[str] = ()

    def renew(self) -> None:
        self.want(self.again)

    def finish(self) -> None:
        self.finished += 1


def lane(
    platform: str,
    inputs: Mapping[str, Sequence[str]],
    *,
    keys: Mapping[str, str] | None = None,
    times: Mapping[str, float] | None = None,
    need: int = 0,
) -> NotedLane:
    """A lane that wants every step of a graph given by each step's inputs; keys are the ids unless they are given."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    names = {name: f"{platform}/{name}" for name in inputs}
    for name, above in inputs.items():
        whole = tuple(names[one] for one in above)
        graph.add_node(
            names[name], step=Step(names[name], Kind.HOOK, platform, "", name, "", False, whole, ())
        )
        graph.add_edges_from((one, names[name]) for one in whole)
    given = keys or {}
    seconds = {f"{platform}/{name}": value for name, value in (times or {}).items()}
    heard: list[events.Event] = []
    job = SimpleNamespace(
        graph=graph,
        keys={whole: given.get(name, whole) for name, whole in names.items()},
        store=SimpleNamespace(times=lambda: seconds),
        stream=events.Stream(heard.append),
        step=lambda step_id: graph.nodes[step_id]["step"],
        heard=heard,
    )
    return NotedLane(cast(Job, job), list(nx.topological_sort(graph)), need)


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop()
    monkeypatch.setattr(run, "run_step", shop.run_step)
    return shop


CHAIN = {"a": (), "b": ("a",), "c": ("b",)}


def broken() -> None:
    raise ImgcError("E301", "It failed.")


def go(*lanes: Lane, jobs: int = 2, budget: Budget = FREE, fail_fast: bool = False) -> None:
    run.run(lanes, jobs=jobs, budget=budget, fail_fast=fail_fast)


def test_steps_run_after_their_inputs(shop: Shop) -> None:
    one = lane("p", CHAIN)
    go(one)
    assert shop.began == ["p/a", "p/b", "p/c"] == one.ran
    assert (one.problem, one.finished) == (None, 1)


def test_platforms_run_side_by_side_but_no_more_steps_than_jobs(shop: Shop) -> None:
    shop.orders = {f"{p}/{s}": lambda: time.sleep(0.02) for p in "pqr" for s in "abc"}
    go(lane("p", CHAIN), lane("q", CHAIN), lane("r", CHAIN), jobs=2)
    assert shop.most_at_once == 2
    assert len(shop.began) == 9


def test_equal_steps_run_once_and_the_other_platform_takes_the_result(shop: Shop) -> None:
    keys = {"a": "same a", "b": "same b"}
    one, other = lane("p", CHAIN, keys=keys), lane("q", CHAIN, keys=keys)
    go(one, other, jobs=4)
    assert len(shop.began) == 4
    assert sorted([*one.ran, *other.ran]) == sorted(shop.began)
    heard = [*cast(Any, one.job).heard, *cast(Any, other.job).heard]
    assert [event.key for event in heard if isinstance(event, events.StepCached)] == ["same a", "same b"]


def test_the_longest_path_goes_first(shop: Shop) -> None:
    short = lane("short", {"a": ()}, times={"a": 5.0})
    long = lane("long", CHAIN, times={"a": 1.0, "b": 60.0, "c": 1.0})
    go(short, long, jobs=1)
    assert shop.began == ["long/a", "long/b", "short/a", "long/c"]


def test_a_failure_ends_its_own_platform_only(shop: Shop) -> None:
    shop.orders = {"p/b": broken}
    one, other = lane("p", CHAIN), lane("q", CHAIN)
    go(one, other)
    assert one.problem and one.problem.code == "E301"
    assert one.failed and one.failed.id == "p/b"
    assert one.ran == ["p/a"]
    assert (other.problem, other.ran) == (None, ["q/a", "q/b", "q/c"])
    assert one.finished == other.finished == 1


def test_a_shared_step_that_fails_is_not_tried_again_for_the_next(shop: Shop) -> None:
    shop.orders = {"p/a": broken, "q/a": broken}
    lanes = [lane(name, CHAIN, keys={"a": "same"}) for name in "pq"]
    go(*lanes)
    assert len(shop.began) == 1
    assert all(one.problem and one.problem.code == "E301" for one in lanes)


def test_with_fail_fast_nothing_more_starts(shop: Shop) -> None:
    shop.orders = {"p/a": broken, "q/a": lambda: time.sleep(0.2)}
    one, other = lane("p", CHAIN), lane("q", CHAIN)
    go(one, other, fail_fast=True)
    assert shop.began.count("q/b") == 0
    assert other.problem and other.problem.code == "E308"


def test_an_interrupt_ends_every_platform(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    latch = process.Interrupt()
    monkeypatch.setattr(process, "INTERRUPT", latch)
    shop.orders = {"p/a": latch.set}
    lanes = [lane("p", CHAIN), lane("q", CHAIN)]
    go(*lanes, jobs=1)
    assert shop.began == ["p/a"]
    assert all(one.problem and one.problem.code == "E307" for one in lanes)
    latch.close()


def test_a_defect_is_raised_after_everything_has_ended(shop: Shop) -> None:
    def defect() -> None:
        raise KeyError("oops")

    shop.orders = {"p/a": defect}
    one, other = lane("p", CHAIN), lane("q", CHAIN)
    with pytest.raises(KeyError):
        go(one, other)
    assert one.finished == other.finished == 1


def test_a_damaged_layer_makes_the_platform_start_over_where_it_must(shop: Shop) -> None:
    damaged = [True]

    def once() -> None:
        if damaged.pop() if damaged else False:
            raise LayerDamaged(["p/a"])

    one = lane("p", CHAIN)
    one.again = ["p/a", "p/b", "p/c"]
    shop.orders = {"p/b": once}
    go(one)
    assert shop.began == ["p/a", "p/b", "p/a", "p/b", "p/c"]
    assert one.problem is None


def test_damage_without_end_is_a_failure(shop: Shop) -> None:
    def always() -> None:
        raise LayerDamaged(["p/a"])

    one = lane("p", CHAIN)
    one.again = ["p/a", "p/b", "p/c"]
    shop.orders = {"p/b": always}
    go(one)
    assert one.problem


def test_platforms_wait_for_room(shop: Shop) -> None:
    shop.orders = {f"{p}/{s}": lambda: time.sleep(0.01) for p in "pqr" for s in "abc"}
    lanes = [lane(name, CHAIN, need=60) for name in "pqr"]
    go(*lanes, jobs=3, budget=Budget(100, None))
    assert shop.most_at_once == 1
    assert len(shop.began) == 9


def test_one_platform_is_let_through_however_large(shop: Shop) -> None:
    one = lane("p", CHAIN, need=10**15)
    go(one, budget=Budget(100, 100))
    assert one.ran == ["p/a", "p/b", "p/c"]
