"""A row's guesses as one tree of tokens, ordered by how likely they are."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actors.worker.draft.acceptance import LEVELS, Acceptance
from actors.worker.draft.draft import Draft
from actors.worker.draft.lookahead import MOST_LOOKAHEAD

BRANCH_DEPTH = 3
"""Depth to which a tree is more than a chain. To there, a node of the trunk may have a second child."""


class Guess(NamedTuple):
    """What one source thinks comes next."""

    source: str  # of actors.worker.draft.acceptance.SOURCES
    tokens: Sequence[int]
    levels: Sequence[int]  # how sure the source is of each token, given those before it: 0..16


RISING = tuple(tuple(min(matched + more, LEVELS - 1) for more in range(MOST_LOOKAHEAD)) for matched in range(LEVELS))
"""By matched tokens: the levels of text that goes on after them. Each token accepted makes the match longer."""


class Tree:
    """Nodes as parallel lists, parents before children and never less likely than any node after them."""

    __slots__ = ("chances", "levels", "parents", "sources", "sure", "tokens")

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.chances: list[float] = []
        self.sure: list[float] = []
        """The chance of each where its parent is accepted, and no sibling before it."""
        self.sources: list[str] = []
        self.levels: list[int] = []

    def __len__(self) -> int:
        return len(self.tokens)

    def append(self, token: int, parent: int, chance: float, sure: float, source: str, level: int) -> None:
        """Another node. A sibling that is there already is tried before it."""
        self.tokens.append(token)
        self.parents.append(parent)
        self.chances.append(chance)
        self.sure.append(sure)
        self.sources.append(source)
        self.levels.append(level)

    def ordered(self) -> "Tree":
        """The same with the likelier nodes first; of equal ones, as they are."""
        order = sorted(range(len(self)), key=lambda node: -self.chances[node])
        place = {node: at for at, node in enumerate(order)}
        place[-1] = -1
        tree = Tree()
        for node in order:
            parent, source = place[self.parents[node]], self.sources[node]
            tree.append(self.tokens[node], parent, self.chances[node], self.sure[node], source, self.levels[node])
        return tree

    def cut(self, count: int) -> None:
        """Keep the first `count` nodes."""
        for column in (self.tokens, self.parents, self.chances, self.sure, self.sources, self.levels):
            del column[count:]

    def draft(self, count: int) -> Draft:
        """The first `count` nodes, at least one."""
        tokens, parents = np.array(self.tokens[:count], np.int32), np.array(self.parents[:count], np.int32)
        return Draft(tokens, parents, self.chances[:count], self.sources[0])

    def judge(self, came: Sequence[int], acceptance: Acceptance, shifts: dict[str, float]) -> list[tuple[str, bool]]:
        """Learn from the tokens `came` that followed; of each node tried its source, and whether it was accepted.

        A node is tried when its parent is accepted, a token came after that, and no sibling before it was accepted.
        """
        tried: list[tuple[str, bool]] = []
        at, depth = -1, 0
        for node, parent in enumerate(self.parents):
            if depth == len(came):
                break
            if parent != at:
                continue
            right, source = self.tokens[node] == came[depth], self.sources[node]
            tried.append((source, right))
            acceptance.learn(source, self.levels[node], shifts, right - self.sure[node])
            if right:
                at, depth = node, depth + 1
        return tried


def grow(
    forced: Sequence[int], guesses: Sequence[Guess], least: float, acceptance: Acceptance, shifts: dict[str, float]
) -> Tree:
    """The tree of `forced` tokens, then the first of `guesses` as the trunk; others branch off the trunk.

    A branch is what a guess says beyond what it has in common with the trunk, down to BRANCH_DEPTH. Nodes whose chance
    is below `least` are left out, but for the first.
    """
    tree = Tree()
    chance = 1.0
    for token in forced:
        sure = acceptance.chance("grammar", 0, shifts)
        chance *= sure
        tree.append(token, len(tree) - 1, chance, sure, "grammar", 0)
    if not guesses:
        return tree
    begin, root = len(tree), chance
    source, tokens, levels = guesses[0]
    for token, level in zip(tokens, levels, strict=False):
        sure = acceptance.chance(source, level, shifts)
        chance *= sure
        if chance < least and len(tree):
            break
        tree.append(token, len(tree) - 1, chance, sure, source, level)
    length = len(tree) - begin
    branched: set[int] = set()
    for source, tokens, levels in guesses[1:]:
        same = 0
        while same < length and same < len(tokens) and tokens[same] == tree.tokens[begin + same]:
            same += 1
        if same == length or same in branched or same >= min(BRANCH_DEPTH, len(tokens)):
            continue
        at = begin + same - 1
        chance = (tree.chances[at] if same else root) - tree.chances[begin + same]  # of the trunk being left here
        for token, level in zip(tokens[same:BRANCH_DEPTH], levels[same:], strict=False):
            sure = acceptance.chance(source, level, shifts)
            chance *= sure
            if chance < least:
                break
            branched.add(same)
            tree.append(token, at, chance, sure, source, level)
            at = len(tree) - 1
    return tree.ordered() if branched else tree
