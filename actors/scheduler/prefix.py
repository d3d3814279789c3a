"""Prefix cache: pages whose KV is computed already, found by the tokens they hold.

A radix tree whose edges are whole pages of tokens. A node is one page: its KV is that of the node's tokens after all
tokens on the way from the root. There is one root for each salt (whatever else KV depends on), so nothing is ever
shared between different ones.

    salt --[16 tokens]--> page 7 --[16 tokens]--> page 3      ready: its KV is computed
                             +----[16 tokens]--> page 9      promised: a running sequence is computing it

The tree itself holds one reference of every ready page, so pages outlive the sequences that computed them. Nodes that
no sequence uses are evicted when pages are wanted: leaves first, the one used longest ago first.
"""

from array import array
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from actors.scheduler.pages import PageAllocator, PageTable

# Entries of the heap that have been overtaken are worth collecting only where there are more.
_FEW = 1024


class Node:
    """One page of tokens at one place in the tree."""

    __slots__ = ("children", "key", "page", "parent", "ready", "used_at", "users")

    def __init__(self, parent: "Node | None", key: bytes, page: int, ready: bool) -> None:
        self.parent = parent
        # The page's tokens, as 32-bit integers.
        self.key = key
        self.page = page
        # Whether its KV is computed; if not, the sequence that promised it is its only user.
        self.ready = ready
        self.children: dict[bytes, Node] = {}
        # Holds that pass through this node; of a root, those that begin there.
        self.users = 0
        self.used_at = 0


class Hold:
    """A sequence's way into the tree: nodes from the root on, none of which goes while it is held.

    `nodes[i]` has the tokens of the sequence's page i. Its page may be another one than the sequence's own, where two
    computed the same at the same time. Nodes from `kept` on are promised by this very sequence.
    """

    __slots__ = ("kept", "nodes", "root")

    def __init__(self, root: Node) -> None:
        self.root = root
        self.nodes: list[Node] = []
        self.kept = 0

    @property
    def end(self) -> Node:
        """The last node held, or the root."""
        return self.nodes[-1] if self.nodes else self.root

    @property
    def pages(self) -> list[int]:
        """The pages of the nodes held."""
        return [node.page for node in self.nodes]


class PrefixCache:
    """The tree over the pages of one allocator. Costs grow with the pages of the sequence asked about, not the tree's.

    A hold must be released; until then its pages stay.
    """

    def __init__(self, allocator: PageAllocator) -> None:
        self.num_pages = 0
        """Pages that the tree holds a reference of."""
        self.num_evictable = 0
        """Those among them that nothing else holds: as good as free."""
        self._allocator = allocator
        self._page_bytes = 4 * allocator.page_size
        self._roots: dict[bytes, Node] = {}
        self._tick = 0
        # (used_at, number, leaf) of leaves that nobody used at that time; what has changed since is skipped.
        self._leaves: list[tuple[int, int, Node]] = []
        self._pushed = 0

    def match(self, salt: bytes, token_ids: list[int]) -> tuple[Hold, bool]:
        """Hold the longest ready prefix of whole pages; and whether its next page is promised by a running sequence."""
        root = self._roots.get(salt)
        if root is None:
            root = self._roots[salt] = Node(None, salt, -1, ready=True)
        root.users += 1
        hold = Hold(root)
        node, promised = root, False
        for key in self._keys(token_ids, 0):
            child = node.children.get(key)
            if child is None or not child.ready:
                promised = child is not None
                break
            node = child
            hold.nodes.append(node)
            self._use(node)
        hold.kept = len(hold.nodes)
        self._touch(hold)
        return hold, promised

    def promise(self, hold: Hold, token_ids: list[int], table: PageTable) -> None:
        """A sequence is about to compute the KV of these tokens: others may wait for its pages instead."""
        for index, key in enumerate(self._keys(token_ids, len(hold.nodes)), start=len(hold.nodes)):
            if key in hold.end.children or index >= len(table.pages):
                break
            self._append(hold, key, table.pages[index], ready=False)

    def keep(self, hold: Hold, token_ids: list[int], table: PageTable, num_computed: int) -> bool:
        """The KV of the first `num_computed` tokens lies in the table now; returns whether a promise was fulfilled."""
        page_size = self._allocator.page_size
        fulfilled = False
        while hold.kept < len(hold.nodes) and (hold.kept + 1) * page_size <= num_computed:
            node = hold.nodes[hold.kept]
            node.ready = fulfilled = True
            self._allocator.share([node.page])
            self.num_pages += 1
            hold.kept += 1
        # Promises end with the prompt; generated pages, and those that another had promised, are added as they come.
        while hold.kept == len(hold.nodes) and (hold.kept + 1) * page_size <= num_computed:
            start = hold.kept * page_size
            key = array("I", token_ids[start : start + page_size]).tobytes()
            child = hold.end.children.get(key)
            if child is None:
                self._append(hold, key, table.pages[hold.kept], ready=True)
                self._allocator.share([hold.end.page])
                self.num_pages += 1
            elif child.ready:
                hold.nodes.append(child)
                self._use(child)
            else:
                break
            hold.kept += 1
        return fulfilled

    def release(self, hold: Hold) -> bool:
        """Let go; what the sequence promised and did not compute is forgotten. Returns whether there was any."""
        broken = hold.kept < len(hold.nodes)
        for node in reversed(hold.nodes[hold.kept :]):
            del _parent(node).children[node.key]
        del hold.nodes[hold.kept :]
        self._touch(hold)
        for node in hold.nodes:
            node.users -= 1
            self.num_evictable += node.users == 0
        self._offer(hold.end)
        hold.root.users -= 1
        self._prune(hold.root)
        hold.nodes, hold.kept = [], 0
        return broken

    def make_room(self, pages: int) -> int:
        """Evict until `pages` pages are free or nothing is left to evict; returns how many were evicted."""
        evicted = 0
        while self._allocator.num_free < pages and self._leaves:
            entry = heappop(self._leaves)
            if not _is_leaf(*entry):
                continue
            node = entry[2]
            self._allocator.release([node.page])
            node.page = -1
            parent = _parent(node)
            del parent.children[node.key]
            self.num_pages -= 1
            self.num_evictable -= 1
            evicted += 1
            self._offer(parent)
            self._prune(parent)
        return evicted

    def check_integrity(self) -> list[str]:
        """Sentences about what is wrong with counts and nodes; empty where all is sound."""
        nodes = list(self._nodes())
        ready = [node for node in nodes if node.ready]
        idle = [node for node in ready if not node.users]
        problems = [
            f"The prefix cache says {name} = {said}; its nodes say {counted}."
            for name, said, counted in (
                ("num_pages", self.num_pages, len(ready)),
                ("num_evictable", self.num_evictable, len(idle)),
            )
            if said != counted
        ]
        for node in nodes:
            if node.users < 0 or (not node.ready and node.users != 1):
                problems.append(f"Page {node.page} has {node.users} users, ready = {node.ready}.")
            if not node.users and any(child.users for child in node.children.values()):
                problems.append(f"Page {node.page} has no user, but a page after it has.")
        return problems

    def table(self) -> PageTable:
        """The pages that the tree holds a reference of."""
        return PageTable(node.page for node in self._nodes() if node.ready)

    def _keys(self, token_ids: list[int], first_page: int) -> Iterator[bytes]:
        data = array("I", token_ids).tobytes()
        size = self._page_bytes
        return (data[start : start + size] for start in range(first_page * size, len(data) // size * size, size))

    def _append(self, hold: Hold, key: bytes, page: int, ready: bool) -> None:
        node = Node(hold.end, key, page, ready)
        node.users, node.used_at = 1, self._tick
        hold.end.children[key] = node
        hold.nodes.append(node)

    def _use(self, node: Node) -> None:
        self.num_evictable -= node.users == 0
        node.users += 1

    def _touch(self, hold: Hold) -> None:
        self._tick += 1
        for node in hold.nodes:
            node.used_at = self._tick

    def _offer(self, node: Node) -> None:
        """Let a node be evicted, once it is a leaf that nobody uses."""
        if not node.users and not node.children and node.parent is not None:
            self._pushed += 1
            heappush(self._leaves, (node.used_at, self._pushed, node))
            if len(self._leaves) > 2 * self.num_pages + _FEW:
                self._leaves = [entry for entry in self._leaves if _is_leaf(*entry)]
                heapify(self._leaves)

    def _prune(self, node: Node) -> None:
        if node.parent is None and not node.children and not node.users:
            self._roots.pop(node.key, None)

    def _nodes(self) -> Iterator[Node]:
        stack = [child for root in self._roots.values() for child in root.children.values()]
        while stack:
            node = stack.pop()
            stack += node.children.values()
            yield node


def _is_leaf(used_at: int, _: int, node: Node) -> bool:
    """Whether an entry of the heap still says what it said: a leaf, unused since then, not evicted."""
    return not node.users and not node.children and node.used_at == used_at and node.page >= 0


def _parent(node: Node) -> Node:
    assert node.parent is not None, "a root is never removed like a page"
    return node.parent
