"""What a file of Python source has that Python 3.4, the one of Ubuntu 14.04, cannot read."""

from __future__ import annotations

import ast

#: What came later, and what the grammar of ``feature_version`` lets through all the same.
_LATER = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.AsyncFunctionDef, ast.MatMult, ast.Match)


def too_new(text: str) -> list[str]:
    """The parts that are too new, as source; raises SyntaxError where the grammar itself says so."""
    tree = ast.parse(text, feature_version=(3, 4))
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, _LATER) or _unpacks(node)]


def _unpacks(node: ast.AST) -> bool:
    """Whether a display unpacks something, which came with 3.5."""
    if isinstance(node, ast.Dict):
        return None in node.keys
    if isinstance(node, ast.Set):
        return any(isinstance(one, ast.Starred) for one in node.elts)
    if isinstance(node, ast.List | ast.Tuple):
        return isinstance(node.ctx, ast.Load) and any(isinstance(one, ast.Starred) for one in node.elts)
    return False
