"""The compiler: a platform becomes a plan, a plan a graph of steps, and every step gets a key.

Importing this package is cheap; networkx is loaded when :func:`lower` is called.
"""

from imgc.graph.found import Discovered, settle
from imgc.graph.keys import key_of, keys, manifest
from imgc.graph.lower import add_boot, lower, steps_in_order
from imgc.graph.plan import Plan, compile_plan
from imgc.graph.step import PHASES, PROTOCOL, Fact, Kind, Step

__all__ = [
    "PHASES",
    "PROTOCOL",
    "Discovered",
    "Fact",
    "Kind",
    "Plan",
    "Step",
    "add_boot",
    "compile_plan",
    "key_of",
    "keys",
    "lower",
    "manifest",
    "settle",
    "steps_in_order",
]
