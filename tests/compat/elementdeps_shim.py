"""The interface of the stock element resolver, answered by imgc's.

The stock resolver's own unit tests run against this module in its place.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import NoReturn

from imgc.errors import ImgcError, Problems
from imgc.graph.elements import Element, ElementError, resolve

logger = logging.getLogger("diskimage_builder.element_dependencies")


class MissingElementException(Exception):
    pass


class AlreadyProvidedException(Exception):
    pass


class MissingOSException(Exception):
    pass


class InvalidElementDir(Exception):
    pass


def _get_elements_dir() -> str:
    if not os.environ.get("ELEMENTS_PATH"):
        raise Exception("$ELEMENTS_PATH must be set.")
    return os.environ["ELEMENTS_PATH"]


def _get_elements(elements: Iterable[str], paths: str | None = None) -> list[Element]:
    elements = list(elements)
    try:
        return list(resolve(elements, (paths or _get_elements_dir()).split(":")))
    except ImgcError as error:
        problems = error.problems if isinstance(error, Problems) else [error]
        _raise([problem for problem in problems if isinstance(problem, ElementError)], elements)


def get_elements(elements: Iterable[str], paths: str | None = None) -> list[tuple[str, str]]:
    return [(element.name, element.path) for element in _get_elements(elements, paths)]


def expand_dependencies(user_elements: Iterable[str], element_dirs: str) -> set[str]:
    return {element.name for element in _get_elements(user_elements, element_dirs)}


def _output_env_vars(elements: Iterable[Element]) -> None:
    print("export IMAGE_ELEMENT='{}'".format(" ".join(element.name for element in elements)))


def _raise(problems: list[ElementError], requested: list[str]) -> NoReturn:
    """Raise the stock exception for the problem that the stock resolver would have met first."""
    order = ("E204", "E201", "E208", "E202", "E203")
    first = min(problems, key=lambda problem: order.index(problem.code))
    if first.code == "E204":
        raise InvalidElementDir(f"ELEMENTS_PATH entry '{first.names[0]}' is not a directory ")
    if first.code in ("E201", "E208"):
        raise MissingElementException(f"Element '{first.names[0]}' not found")
    if first.code == "E203":
        raise MissingOSException("Please include an operating system element")
    virtual, *providers = first.names
    logger.error("%s : already provided by %s", virtual, providers)
    # The stock resolver follows the order of the request, and stops at the second.
    first_met = sorted(
        providers, key=lambda name: requested.index(name) if name in requested else len(requested)
    )[:1]
    raise AlreadyProvidedException(f"{virtual}: already provided by {first_met}")
