"""The wiring of a flow as a graph: what can be reached, what comes before what, what goes in circles.

All in time linear in nodes and arcs, without recursion: the graph comes from a stranger.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

SHOWN = 8
"""Nodes of a cycle that are named before it is cut short."""


@dataclass(frozen=True, slots=True)
class Arc:
    """A way from one node to another; `field` is where the flow says so."""

    source: str
    target: str
    field: str


@dataclass(frozen=True, slots=True)
class Cycle:
    """`arc` closes it; `nodes` are the first of those on it."""

    arc: Arc
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """`nodes` with sources before targets, as far as `cycles` allow."""

    nodes: tuple[str, ...]
    cycles: tuple[Cycle, ...]


def outgoing(arcs: Iterable[Arc]) -> dict[str, list[Arc]]:
    found: dict[str, list[Arc]] = {}
    for arc in arcs:
        found.setdefault(arc.source, []).append(arc)
    return found


def reachable(start: str, ways: Mapping[str, Sequence[Arc]]) -> set[str]:
    seen, queue = {start}, [start]
    while queue:
        for arc in ways.get(queue.pop(), ()):
            if arc.target not in seen:
                seen.add(arc.target)
                queue.append(arc.target)
    return seen


def order(nodes: Iterable[str], ways: Mapping[str, Sequence[Arc]]) -> Order:
    """Depth first; an arc back to a node still on the way closes a cycle."""
    finished: list[str] = []
    cycles: list[Cycle] = []
    seen: set[str] = set()
    for node in nodes:
        if node not in seen:
            _descend(node, ways, seen, finished, cycles)
    return Order(tuple(reversed(finished)), tuple(cycles))


def _descend(
    node: str, ways: Mapping[str, Sequence[Arc]], seen: set[str], finished: list[str], cycles: list[Cycle]
) -> None:
    trail: dict[str, Iterator[Arc]] = {node: iter(ways.get(node, ()))}
    seen.add(node)
    while trail:
        here, arcs = next(reversed(trail.items()))
        for arc in arcs:
            if arc.target in trail:
                cycles.append(Cycle(arc, _cycle(trail, arc)))
            elif arc.target not in seen:
                seen.add(arc.target)
                trail[arc.target] = iter(ways.get(arc.target, ()))
                break
        else:
            finished.append(here)
            del trail[here]


def _cycle(trail: dict[str, Iterator[Arc]], arc: Arc) -> tuple[str, ...]:
    """The last nodes of the trail back to the one the arc leads to; cut short from its source when long."""
    names: list[str] = []
    for name in reversed(trail):
        names.append(name)
        if name == arc.target or len(names) == SHOWN:
            break
    return tuple(reversed(names))


@dataclass(frozen=True, slots=True)
class Before:
    """Which node comes before which: `sets` has bits by `places`. Both are empty when that cannot be said."""

    places: Mapping[str, int]
    sets: Mapping[str, int]

    def rules_out(self, earlier: str, later: str) -> bool:
        return bool(self.places) and not self.sets[later] >> self.places[earlier] & 1


def before(nodes: Sequence[str], ways: Mapping[str, Sequence[Arc]]) -> Before:
    """`nodes` has sources before targets."""
    places = {node: place for place, node in enumerate(nodes)}
    sets = dict.fromkeys(nodes, 0)
    for node, place in places.items():
        for arc in ways.get(node, ()):
            sets[arc.target] |= sets[node] | 1 << place
    return Before(places, sets)
