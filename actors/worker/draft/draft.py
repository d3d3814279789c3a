"""What is asked of proposers, and what they propose."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kernels.decoder import Int32


class Context(NamedTuple):
    """One decoding row, as a proposer sees it."""

    slot: int
    tokens: Int32  # [known], a view: prompt and output so far, the newest last
    most: int
    """Most draft tokens that its lease and its length leave room for; 0 or less: none."""
    forced: Sequence[int] = ()
    """What the row's grammar says comes next, as good as certain; drafted first. May be empty."""


class Draft(NamedTuple):
    """A tree of tokens that may follow a row's newest one; at least one node, parents before children."""

    tokens: Int32  # [N]
    parents: Int32  # [N], index into tokens; -1: follows the row's newest token. A chain is -1, 0, 1, ...
    chances: list[float]  # [N], estimated probability that the node is accepted, its ancestors' included
    source: str
    """Who proposed its first node: grammar, reference, prompt, traffic, model or head."""

    @property
    def is_chain(self) -> bool:
        """Whether every node but the last has one child."""
        return bool((self.parents == np.arange(-1, len(self.parents) - 1)).all())


def accepted(tokens: Sequence[int], parents: Sequence[int], came: Sequence[int]) -> list[int]:
    """The nodes of a tree that lie on the path of the tokens `came`, which followed the row's newest token, in order.

    Siblings differ in their tokens.
    """
    path: list[int] = []
    at, depth = -1, 0
    for node, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
        if depth < len(came) and parent == at and token == came[depth]:
            path.append(node)
            at, depth = node, depth + 1
    return path
