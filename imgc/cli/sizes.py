"""Sizes on the command line, written as in specs: ``30G``, ``1.5 GiB``."""

from __future__ import annotations

from typing import Any

import click


class Size(click.ParamType[int]):
    """An amount of bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        from imgc.errors import Place
        from imgc.spec.nodes import Scalar
        from imgc.spec.types import Refused
        from imgc.spec.types import Size as SpecSize

        try:
            size = SpecSize(least=1).read(Scalar(value, "str", Place("")))
        except Refused as refused:
            self.fail(f"{refused.said} {refused.hint}".strip(), param, ctx)
        assert size is not None
        return size
