"""Uniqueness: 1 - the highest 3-gram Jaccard similarity with the tenant's recent answers.

3-grams are kept as a bottom-k sketch (Broder 1997): the k smallest of their hashes. Of two answers with together no
more than k of them the similarity is exact, of longer ones an estimate with a standard error below 1 / sqrt(k).
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

SKETCH = 256
WORDS = 2048
"""Read of an answer."""
TENANTS = 256
"""Whose answers are remembered; past it those of the tenant that asked longest ago are forgotten."""
Sketch = frozenset[int]


def sketch(words: Sequence[str]) -> Sketch:
    """Of the text's 3-grams; a text of one or two words is one gram."""
    grams = set(zip(words, words[1:], words[2:], strict=False)) or ({tuple(words)} if words else set())
    hashes = (int.from_bytes(blake2b("\0".join(gram).encode(), digest_size=8).digest()) for gram in grams)
    return frozenset(sorted(hashes)[:SKETCH])


def similarity(one: Sketch, other: Sketch) -> float:
    """Jaccard similarity of two sketched sets; 0 where one is empty."""
    shared = one & other
    if not shared:
        return 0.0
    union = sorted(one | other)[:SKETCH]
    return sum(gram in shared for gram in union) / len(union)


class Recent:
    """The newest answers of each tenant."""

    def __init__(self, each: int) -> None:
        """`each`: answers remembered of a tenant."""
        self._each = each
        self._tenants: OrderedDict[str, OrderedDict[str, Sketch]] = OrderedDict()

    def uniqueness(self, tenant: str, answer: str, sketched: Sketch) -> float:
        """Of the answer with the id `answer` among those before it, which it joins; asked again, it does not count."""
        known = self._tenants.setdefault(tenant, OrderedDict())
        self._tenants.move_to_end(tenant)
        if len(self._tenants) > TENANTS:
            self._tenants.popitem(last=False)
        highest = max((similarity(sketched, other) for name, other in known.items() if name != answer), default=0.0)
        known[answer] = sketched
        if len(known) > self._each:
            known.popitem(last=False)
        return 1 - highest
