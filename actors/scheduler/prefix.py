"""Prefix cache: pages whose KV is computed already, found by the tokens they hold.

A radix tree whose edges are whole pages of tokens. A node is one page: its KV is that of the node's tokens after all
tokens on the way from the root. There is one root for each salt (whatever else KV depends on), so nothing is ever
shared between different ones.

    salt --[16 tokens]--> page 7 --[16 tokens]--> page 3      ready: its KV is computed
                             +----[16 tokens]-->             promised: a sequence in the batch will compute it

The tree itself holds one reference of every ready page, so pages outlive the sequences that computed them. Nodes that
no sequence uses are evicted when pages are wanted: leaves first, the one used longest ago first. As a way is used from
its root on, no node was used longer ago than those after it: this is LRU over pages.
"""

from array import array
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush

from actors.scheduler.kv_pool import KvPool
from actors.scheduler.pages import PageTable

# Entries of the heap that have been overtaken are worth collecting only where there are more.
_FEW = 1024


class Node:
    """One page of tokens at one place in the tree."""

    __slots__ = (
        "archived",
        "awaited",
        "children",
        "hits",
        "key",
        "level",
        "page",
        "parent",
        "promised",
        "used_at",
        "users",
    )

    def __init__(self, parent: "Node | None", key: bytes) -> None:
        self.parent = parent
        # The page's tokens, as 32-bit integers; of a root, the salt.
        self.key = key
        # -1 before it is computed and after it was evicted.
        self.page = -1
        # Whether its KV is yet to come: the sequence that promised it is then its only user, and all after it are
        # promised by the same one. Ends with the promise, kept or broken.
        self.promised = False
        # Of the sequence that promised it.
        self.level = 0
        # Whether somebody waits for the end of the promise.
        self.awaited = False
        self.children: dict[bytes, Node] = {}
        # Holds that pass through this node; of a root, those that begin there.
        self.users = 0
        self.used_at = 0
        # Sequences that began with it although others had computed it.
        self.hits = 0
        # Whether a way through it was offered to the archive.
        self.archived = False


class Hold:
    """A sequence's way into the tree: nodes from the root on, none of which goes while it is held.

    `nodes[i]` has the tokens of the sequence's page i. Its page may be another one than the sequence's own, where two
    computed the same at the same time or the sequence writes a copy; such i are `copies`. Nodes from `kept` on are
    promised by this very sequence.
    """

    __slots__ = ("copies", "kept", "nodes", "root")

    def __init__(self, root: Node) -> None:
        self.root = root
        self.nodes: list[Node] = []
        self.kept = 0
        self.copies: set[int] = set()

    @property
    def end(self) -> Node:
        """The last node held, or the root."""
        return self.nodes[-1] if self.nodes else self.root

    @property
    def pages(self) -> list[int]:
        """The pages of the nodes held."""
        return [node.page for node in self.nodes]


class PrefixCache:
    """The tree over the pages of one pool. Costs grow with the pages of the sequence asked about, not the tree's.

    A hold must be released; until then its pages stay.
    """

    def __init__(self, pool: KvPool) -> None:
        self.num_pages = 0
        """Pages that the tree holds a reference of."""
        self.num_evictable = 0
        """Those among them that no sequence uses: they go when pages are wanted."""
        self.num_evicted = 0
        """Pages evicted so far."""
        self._pool = pool
        self._page_bytes = 4 * pool.page_size
        # Page -> its node.
        self._at: dict[int, Node] = {}
        self._roots: dict[bytes, Node] = {}
        self._tick = 0
        # (used_at, number, leaf) of leaves that nobody used at that time; what has changed since is skipped.
        self._leaves: list[tuple[int, int, Node]] = []
        # The same, of leaves that were not offered to the archive.
        self._unarchived: list[tuple[int, int, Node]] = []
        self._pushed = 0

    def match(self, salt: bytes, token_ids: list[int]) -> tuple[Hold, Node | None]:
        """Hold the longest ready prefix of whole pages; returns the last of the pages promised after it, too."""
        root = self._roots.get(salt)
        if root is None:
            root = self._roots[salt] = Node(None, salt)
        root.users += 1
        hold = Hold(root)
        node, promised = root, None
        for key in self._keys(token_ids):
            child = node.children.get(key)
            if child is None:
                break
            node = child
            if node.promised:
                promised = node
            else:
                hold.nodes.append(node)
                self._use(node)
        hold.kept = len(hold.nodes)
        self._touch(hold)
        return hold, promised

    def promise(self, hold: Hold, token_ids: list[int], level: int) -> None:
        """A sequence of this level will compute the KV of these tokens: others may wait for its pages."""
        for index, key in enumerate(self._keys(token_ids)):
            if index < len(hold.nodes):
                continue
            if key in hold.end.children:
                break
            self._append(hold, key)
            hold.end.promised, hold.end.level = True, level

    def keep(self, hold: Hold, token_ids: list[int], table: PageTable, num_computed: int) -> bool:
        """The KV of the first `num_computed` tokens lies in the table now; returns whether that was waited for."""
        page_size = self._pool.page_size
        awaited = False
        while (hold.kept + 1) * page_size <= num_computed:
            if hold.kept < len(hold.nodes):
                node = hold.nodes[hold.kept]
                node.promised = False
                awaited = awaited or node.awaited
                self._store(node, table.pages[hold.kept])
            else:
                # Promises end with the prompt; generated pages are added as they come, and so are those that another
                # had promised.
                start = hold.kept * page_size
                key = array("I", token_ids[start : start + page_size]).tobytes()
                child = hold.end.children.get(key)
                if child is None:
                    self._append(hold, key)
                    self._store(hold.end, table.pages[hold.kept])
                elif child.promised:
                    break
                else:
                    hold.nodes.append(child)
                    hold.copies.add(hold.kept)
                    self._use(child)
            hold.kept += 1
        return awaited

    def adopt(self, hold: Hold, table: PageTable, num_computed: int) -> None:
        """Where only this sequence uses a page of which it has a copy, take the copy instead: one page is enough.

        Without that a sequence that runs alone could want more pages than there are.
        """
        for index in sorted(hold.copies):
            node, page = hold.nodes[index], table.pages[index]
            if node.users > 1 or (index + 1) * self._pool.page_size > num_computed:
                continue
            hold.copies.remove(index)
            self._pool.share([page])
            self._pool.release([node.page])
            self.replace(node.page, page)

    def release(self, hold: Hold) -> None:
        """Let go; what the sequence promised and did not compute is forgotten."""
        for node in reversed(hold.nodes[hold.kept :]):
            node.promised = False
            del _parent(node).children[node.key]
        del hold.nodes[hold.kept :]
        self._touch(hold)
        for node in hold.nodes:
            node.users -= 1
            if not node.users:
                self.num_evictable += 1
                self._pool.idle(node.page)
        self._offer(hold.end)
        hold.root.users -= 1
        self._prune(hold.root)
        hold.nodes, hold.kept, hold.copies = [], 0, set()

    def make_room(self, pages: int) -> None:
        """Evict until `pages` f16 pages are free or nothing is left to evict."""
        while self._pool.num_free < pages and self._leaves:
            entry = heappop(self._leaves)
            if not _is_leaf(*entry):
                continue
            node = entry[2]
            self._pool.busy(node.page)
            self._pool.release([node.page])
            del self._at[node.page]
            node.page = -1
            parent = _parent(node)
            del parent.children[node.key]
            self.num_pages -= 1
            self.num_evictable -= 1
            self.num_evicted += 1
            self._offer(parent)
            self._prune(parent)

    def is_kept(self, page: int) -> bool:
        """Whether the tree holds a reference of a page."""
        return page in self._at

    def replace(self, old: int, new: int) -> None:
        """The KV of page `old` lies in page `new` now, if it is in the tree."""
        node = self._at.pop(old, None)
        if node is not None:
            node.page = new
            self._at[new] = node

    def idle_way(self, chosen: Callable[[bytes], bool]) -> tuple[bytes, list[Node]]:
        """The salt and nodes of the way that was unused longest, of those whose salt is chosen; each is given once.

        Empty where there is none. What others use is on it too, from the root on.
        """
        while self._unarchived:
            entry = heappop(self._unarchived)
            node = entry[2]
            if not _is_leaf(*entry) or node.archived:
                continue
            way = []
            while node.parent is not None:
                # Those before it: once they are leaves themselves there is nothing new to be moved.
                node.archived = True
                way.append(node)
                node = node.parent
            if chosen(node.key):
                return node.key, way[::-1]
        return b"", []

    def check_integrity(self) -> list[str]:
        """Sentences about what is wrong with counts and nodes; empty where all is sound."""
        nodes = list(self._nodes())
        ready = [node for node in nodes if not node.promised]
        idle = [node for node in ready if not node.users]
        problems = [
            f"The prefix cache says {name} = {said}; its nodes say {counted}."
            for name, said, counted in (
                ("num_pages", self.num_pages, len(ready)),
                ("num_evictable", self.num_evictable, len(idle)),
            )
            if said != counted
        ]
        if self._at != {node.page: node for node in ready}:
            problems.append(f"The prefix cache knows pages {sorted(self._at)}, which are not those of its nodes.")
        offered = {node for entry in self._leaves if _is_leaf(*entry) for node in entry[2:]}
        for node in nodes:
            says = f"The node of page {node.page} ({node.users} users, promised = {node.promised})"
            after = node.children.values()
            if node.users < 0 or (node.promised and node.users != 1) or (node.page < 0) != node.promised:
                problems.append(f"{says} contradicts itself.")
            if node.users < max((child.users for child in after), default=0):
                problems.append(f"{says} has fewer users than one after it.")
            if node.promised and not all(child.promised for child in after):
                problems.append(f"{says} comes before one that is ready.")
            if not node.users and not after and node not in offered:
                problems.append(f"{says} is an unused leaf that would never be evicted.")
        problems += [
            f"The root of salt {salt!r} is in nobody's way and has no pages."
            for salt, root in self._roots.items()
            if not root.users and not root.children
        ]
        return problems

    def table(self) -> PageTable:
        """The pages that the tree holds a reference of."""
        return PageTable(node.page for node in self._nodes() if not node.promised)

    def _keys(self, token_ids: list[int]) -> Iterator[bytes]:
        data = array("I", token_ids).tobytes()
        size = self._page_bytes
        return (data[start : start + size] for start in range(0, len(data) - size + 1, size))

    def _append(self, hold: Hold, key: bytes) -> None:
        node = Node(hold.end, key)
        node.users, node.used_at = 1, self._tick
        hold.end.children[key] = node
        hold.nodes.append(node)

    def _store(self, node: Node, page: int) -> None:
        self._pool.share([page])
        node.page = page
        self._at[page] = node
        self.num_pages += 1

    def _use(self, node: Node) -> None:
        if not node.users:
            self.num_evictable -= 1
            self._pool.busy(node.page)
        node.users += 1

    def _touch(self, hold: Hold) -> None:
        self._tick += 1
        for node in hold.nodes:
            node.used_at = self._tick

    def _offer(self, node: Node) -> None:
        """Let a node be evicted, once it is a leaf that nobody uses."""
        if not node.users and not node.children and node.parent is not None:
            self._pushed += 1
            entry = (node.used_at, self._pushed, node)
            heappush(self._leaves, entry)
            if not node.archived:
                heappush(self._unarchived, entry)
            for heap in (self._leaves, self._unarchived):
                if len(heap) > 2 * self.num_pages + _FEW:
                    heap[:] = [entry for entry in heap if _is_leaf(*entry)]
                    heapify(heap)

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
    """Whether an entry of the heap still holds: a leaf, unused since then, not evicted."""
    return not node.users and not node.children and node.used_at == used_at and node.page >= 0


def _parent(node: Node) -> Node:
    assert node.parent is not None, "a root is never removed like a page"
    return node.parent
