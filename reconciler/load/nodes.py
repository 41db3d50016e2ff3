"""Walks over the nodes that YAML text is composed to: a step of a path, the path of a node, how far aliases expand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

# Values of one document after aliases are followed: stops nine lines that expand to gigabytes.
EXPANDED_MAX: Final = 100_000


def child(node: Node | None, step: str | int) -> tuple[Node, Node] | None:
    """The (key, value) nodes at one step of a path; for a sequence both are the item."""
    if isinstance(node, MappingNode):
        return next(((key, value) for key, value in node.value if key.value == step), None)
    if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    return None


def explodes(root: Node) -> str:
    """Why the aliases of a document cannot be followed: a value that holds itself, or too much text; else empty."""
    sizes: dict[int, int] = {}
    active: set[int] = set()
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        if isinstance(node, ScalarNode):
            continue
        children = _children(node)
        if done:
            active.discard(id(node))
            size = 1 + sum(sizes.get(id(child), 1) for child in children)
            if size > EXPANDED_MAX:
                return f"The aliases (*name) of this document expand to more than {EXPANDED_MAX} values"
            sizes[id(node)] = size
        elif id(node) in active:
            return "An alias (*name) stands inside the value that it names"
        elif id(node) not in sizes:
            active.add(id(node))
            stack.append((node, True))
            stack.extend((child, False) for child in children)
    return ""


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def path_of(root: Node, target: Node) -> str:
    """`spec.request.time` for the node at that path; for a key, the path of its mapping; empty for the root."""
    stack: list[tuple[Node, str]] = [(root, "")]
    seen = 0
    while stack and seen < EXPANDED_MAX:
        node, path = stack.pop()
        seen += 1
        if node is target:
            return path
        if isinstance(node, MappingNode):
            for key, value in node.value:
                if key is target:
                    return path
                name = key.value if isinstance(key, ScalarNode) else "?"
                stack.append((value, f"{path}.{name}" if path else name))
        elif isinstance(node, SequenceNode):
            stack.extend((item, f"{path}[{index}]") for index, item in enumerate(node.value))
    return ""


def keys_of_nodes(root: Node | None, skipped: Sequence[Node]) -> Iterator[str]:
    """The text of every key below a node, but for what lies below the nodes `skipped`. A node that aliases share is read
    once."""
    stack = [] if root is None else [root]
    seen = {id(node) for node in skipped}
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, MappingNode):
            yield from (key.value for key, _ in node.value if isinstance(key, ScalarNode))
        stack.extend(_children(node))
