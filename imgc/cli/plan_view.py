"""A compiled platform for reading: which elements and why, which steps, and which of them have results already."""

from __future__ import annotations

from collections.abc import Iterator, Set
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from imgc.cli.text import many, printable
from imgc.errors import ImgcError

if TYPE_CHECKING:
    from imgc.build import Compiled
    from imgc.graph.step import Step

#: What stands for a phase where a step has none.
_NO_PHASE = {"driver": "between phases", "packages": "packages of the spec", "boot": "boot"}


def reasons(compiled: Compiled) -> dict[str, str]:
    """Why each element is there: the spec lists it, imgc implies it, or the first element that depends on it."""
    platform, plan = compiled.platform, compiled.plan
    why: dict[str, str] = {}
    for index, name in enumerate(platform.elements):
        why.setdefault(name, f"listed at {platform.place(f'elements[{index}]')}")
    for name, reason in plan.implied:
        why.setdefault(name, reason)
    for element in plan.elements:
        if element.name not in why:
            wanted = {element.name, *element.provides}
            users = [other.name for other in plan.elements if wanted & set(other.depends)]
            why[element.name] = f"{users[0]} depends on it" if users else ""
    return why


def steps_of(compiled: Compiled) -> list[Step]:
    from imgc.graph.lower import steps_in_order

    return steps_in_order(compiled.graph)


def as_json(compiled: Compiled, cached: Set[str]) -> dict[str, Any]:
    """Everything `imgc plan` shows, as plain values."""
    why = reasons(compiled)
    return {
        "platform": compiled.platform.name,
        "outputs": [output.suffix for output in compiled.platform.outputs],
        "elements": [
            {"name": element.name, "path": element.path, "why": why[element.name]}
            for element in compiled.plan.elements
        ],
        "steps": [
            {
                "id": step.id,
                "kind": str(step.kind),
                "phase": step.phase,
                "name": step.name,
                "element": step.element,
                "in_chroot": step.target,
                "inputs": list(step.inputs),
                "key": compiled.keys[step.id],
                "cached": step.id in cached,
            }
            for step in steps_of(compiled)
        ],
        "warnings": [str(warning) for warning in compiled.warnings],
    }


def lines(compiled: Compiled, cached: Set[str]) -> Iterator[str]:
    """The plan as text."""
    yield from _head(compiled)
    yield ""
    yield from _elements(compiled)
    yield ""
    yield from _steps(steps_of(compiled), cached)
    for warning in compiled.warnings:
        yield f"{click.style('warning', fg='yellow')}: {printable(str(warning))}"


def _head(compiled: Compiled) -> Iterator[str]:
    platform = compiled.platform
    base = platform.base
    outputs = ", ".join(output.suffix for output in platform.outputs)
    system = f"{base.distro} {base.release} {base.arch} ({base.kind})"
    yield f"{click.style(platform.name, bold=True)}: {system} -> {outputs}"


def _elements(compiled: Compiled) -> Iterator[str]:
    why = reasons(compiled)
    width = max((len(name) for name in why), default=0)
    yield click.style(many(len(compiled.plan.elements), "element"), bold=True)
    for element in compiled.plan.elements:
        yield f"  {element.name:<{width}}  {click.style(why[element.name], dim=True)}".rstrip()


def _steps(steps: list[Step], cached: Set[str]) -> Iterator[str]:
    done = sum(step.id in cached for step in steps)
    yield f"{click.style(many(len(steps), 'step'), bold=True)}: {done} cached, {len(steps) - done} to run"
    width = max((len(step.name) for step in steps), default=0)
    for title, group in groupby(steps, _title):
        yield f"  {title}"
        for step in group:
            state = (
                click.style("cached", fg="green") if step.id in cached else click.style("run   ", fg="yellow")
            )
            by = click.style(step.element or "imgc", dim=True)
            yield f"    {state}  {step.name:<{width}}  {by}"


def _title(step: Step) -> str:
    return step.phase or _NO_PHASE.get(str(step.kind), "image")


def step_id(compiled: Compiled, name: str) -> str:
    """The id of a step that a user named with or without the platform.  Raises E116."""
    from imgc.spec.words import did_you_mean

    prefix = f"{compiled.platform.name}/"
    found = name if name in compiled.graph else prefix + name
    if found not in compiled.graph:
        offered = [one.removeprefix(prefix) for one in compiled.graph]
        hint = did_you_mean(name, offered, f"`imgc plan {compiled.platform.name}` lists the steps.")
        raise ImgcError("E116", f"No step `{name}` in {compiled.platform.name}.", hint=hint)
    return found


def step(compiled: Compiled, name: str) -> str:
    """Everything that the key of a step covers; ``name`` is its id, with or without the platform.  Raises E116."""
    from imgc.graph.keys import explanation

    id = step_id(compiled, name)
    found = compiled.graph.nodes[id]["step"]
    inputs = {one: compiled.keys[one] for one in found.inputs}
    return f"{compiled.keys[id]}\n{explanation(found, inputs)}"
