"""An ontology of classes, in AudioSet's JSON: a hierarchy of classes.

An abstract parent (its `restrictions` are `["abstract"]`) groups classes with little in common,
such as "Music genre". The official code never uses an abstract node as a parent, which also cuts
off everything above it; `through_abstract` includes it.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from psla_wds.errors import LabelError
from psla_wds.io.regular import read_text
from psla_wds.labels.class_list import ClassList

Pairs = Bool[np.ndarray, "classes classes"]
"""[k, c] is true if a clip of class k may lack class c."""


@dataclass(frozen=True)
class Ontology:
    """Nodes by mid, without cycles; a node may have several parents."""

    children: dict[str, tuple[str, ...]]
    """All nodes, children before their parents."""
    abstract: frozenset[str]

    def child_pairs(self, classes: ClassList, *, through_abstract: bool) -> Pairs:
        """From each class to its direct children (PSLA algorithm 2, type I).

        With `through_abstract`, children of an abstract node that is not a class count as its
        parents' children.
        """
        pairs = np.zeros((len(classes), len(classes)), bool)
        position = _position(classes)
        for parent, row in position.items():
            for child in self._nearest(parent, position, through_abstract):
                pairs[row, position[child]] = True
        return pairs

    def ancestor_pairs(
        self, classes: ClassList, *, through_abstract: bool, single_parent: bool = False
    ) -> Pairs:
        """From each class to all classes above it (PSLA algorithm 2, type II).

        With `single_parent`, nothing above a node with several parents follows from it.
        """
        pairs = np.zeros((len(classes), len(classes)), bool)
        position = _position(classes)
        num_parents = Counter(child for below in self.children.values() for child in set(below))
        below: dict[str, set[str]] = {}
        for node, children in self.children.items():
            followed = through_abstract or node not in self.abstract
            own = {c for c in children if followed and (not single_parent or num_parents[c] == 1)}
            below[node] = own.union(*(below[c] for c in own))
        for ancestor, column in position.items():
            pairs[[position[mid] for mid in below[ancestor] & position.keys()], column] = True
        return pairs

    def _nearest(
        self, parent: str, position: dict[str, int], through_abstract: bool
    ) -> Iterator[str]:
        waiting, seen = [parent], {parent}
        while waiting:
            node = waiting.pop()
            if node in self.abstract and not through_abstract:
                continue
            for child in self.children[node]:
                if child in position:
                    yield child
                elif child in self.abstract and child not in seen:
                    seen.add(child)
                    waiting.append(child)

    def check_classes(self, classes: ClassList, *, where: object) -> None:
        """Raise `LabelError` unless every class is a node."""
        unknown = [mid for mid in classes.mids if mid not in self.children]
        if unknown:
            raise LabelError(
                f"the ontology does not know {len(unknown)} of {len(classes)} classes: "
                f"{', '.join(unknown[:5])}",
                where=where,
                fix="give the ontology that these classes come from, or add them to it",
            )


def read_ontology(path: Path) -> Ontology:
    """The ontology in a file: a list of nodes with `id`, `child_ids` and `restrictions`."""
    try:
        nodes = json.loads(read_text(path))
        if not isinstance(nodes, list) or not nodes:
            raise ValueError(f"{nodes!r:.40} is not a list of nodes")
        listed = [(str(n["id"]), _texts(n["child_ids"]), _texts(n["restrictions"])) for n in nodes]
    except OSError as error:
        raise LabelError(
            f"the ontology cannot be read: {error.strerror}", where=path, fix="check --ontology"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LabelError(
            f"this is not an ontology: {error!r}",
            where=path,
            fix="write a JSON list of nodes, each with id, child_ids and restrictions, as AudioSet",
        ) from None
    children = {mid: child_ids for mid, child_ids, _ in listed}
    _check_nodes(children, len(listed), path)
    order = _children_first(children, path)
    return Ontology(
        children={mid: children[mid] for mid in order},
        abstract=frozenset(m for m, _, restrictions in listed if restrictions == ("abstract",)),
    )


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{values!r} is not a list of strings")
    return tuple(values)


def _check_nodes(children: dict[str, tuple[str, ...]], num_listed: int, path: Path) -> None:
    unknown = sorted({c for child_ids in children.values() for c in child_ids} - children.keys())
    if unknown or len(children) < num_listed:
        fault = (
            f"a child that is not a node: {unknown[0]}" if unknown else "a node that is there twice"
        )
        raise LabelError(f"the ontology has {fault}", where=path, fix="repair the file")


def _children_first(children: dict[str, tuple[str, ...]], path: Path) -> list[str]:
    try:
        return list(TopologicalSorter(children).static_order())
    except CycleError as error:
        raise LabelError(
            f"the ontology has a cycle: {' > '.join(error.args[1])}",
            where=path,
            fix="delete one of these child_ids",
        ) from None


def _position(classes: ClassList) -> dict[str, int]:
    return {mid: i for i, mid in enumerate(classes.mids)}
