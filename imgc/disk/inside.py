"""Calling a function of this room in another process: in the engine's sandbox, where the tree can be seen.

The request is one argument of JSON.  The answer is the last line printed, also JSON: either what the function
returned, or the error that it raised, which :func:`answer` raises again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from imgc.errors import ImgcError

_MARK = "imgc-answer "


def encode(fields: Mapping[str, object]) -> str:
    """The argument that carries ``fields``."""
    return json.dumps(fields, sort_keys=True)


def main(serve: Callable[[dict[str, Any]], Mapping[str, object]], argv: Sequence[str]) -> int:
    """Serve the request ``argv[1]`` and print the answer.  Returns the exit status: 0, or 1 after an error."""
    try:
        result = {"result": serve(json.loads(argv[1]))}
        status = 0
    except ImgcError as error:
        fields = {"code": error.code, "message": error.message, "hint": error.hint, "detail": error.detail}
        result = {"error": fields}
        status = 1
    print(_MARK + json.dumps(result, sort_keys=True), flush=True)
    return status


def answer(output: str) -> dict[str, Any]:
    """What the function returned, from everything that its process printed.

    Raises the function's own :class:`ImgcError`; E901 when the process printed no answer.
    """
    lines = [line for line in output.splitlines() if line.startswith(_MARK)]
    if not lines:
        raise ImgcError("E901", "A helper process ended without an answer.", detail=output)
    result: dict[str, Any] = json.loads(lines[-1][len(_MARK) :])
    if "error" in result:
        error = result["error"]
        raise ImgcError(error["code"], error["message"], hint=error["hint"], detail=error["detail"])
    answered: dict[str, Any] = result["result"]
    return answered
