"""What is in the caches of a platform's image, who asked for it, and what did not go as asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imgc.caches.pinning import KINDS, report
from imgc.graph import steps_in_order
from imgc.graph.step import Step

if TYPE_CHECKING:
    import networkx as nx

    from imgc.engine.store import Store
    from imgc.lock import Pins, Source


def cache_report(
    platform: str,
    sources: Sequence[Source],
    pins: Pins,
    graph: nx.DiGraph[str],
    keys: Mapping[str, str],
    store: Store,
) -> Mapping[str, Any] | None:
    """The report of :func:`imgc.caches.pinning.report` on a platform as it is pinned; None when it has no caches.

    What its hooks warned of, when they ran, is among the findings.
    """
    if not any(source.kind in KINDS for source in sources):
        return None
    warnings = [text for step in steps_in_order(graph) for text in _warnings(step, keys, store)]
    return report(platform, sources, pins, store.cache, warnings)


def _warnings(step: Step, keys: Mapping[str, str], store: Store) -> Sequence[str]:
    if not step.changes_state:
        return ()
    found: Sequence[str] = store.meta(store.layer(keys[step.id])).get("warnings", ())
    return found
