"""The radix tree against a model that knows every prefix as a plain tuple and searches all of them every time."""

from array import array

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.scheduler.kv_pool import KvPool
from actors.scheduler.pages import PageTable
from actors.scheduler.prefix import Hold, Node, PrefixCache

PAGE = 2
PAGES = 14
Prefix = tuple[bytes, tuple[int, ...]]
# Few different pages of tokens, so that prompts often begin alike; some end within a page.
PROMPTS = st.tuples(
    st.lists(st.sampled_from([(1, 1), (1, 2), (2, 1)]), max_size=6), st.sampled_from([(), (1,), (2,)])
).map(lambda parts: [token for page in parts[0] for token in page] + list(parts[1]))


def prefix_of(node: Node) -> Prefix:
    """Salt and tokens that lead to a node."""
    tokens: tuple[int, ...] = ()
    while node.parent is not None:
        tokens = (*array("I", node.key), *tokens)
        node = node.parent
    return node.key, tokens


class User:
    """A sequence as the model sees it."""

    def __init__(self, salt: bytes, token_ids: list[int], hold: Hold) -> None:
        self.salt, self.token_ids, self.hold = salt, token_ids, hold
        self.table = PageTable()
        self.computed = 0
        # Ready prefixes that must stay for it, and those that it will compute.
        self.held: list[Prefix] = []
        self.promised: list[Prefix] = []

    def ways(self, num_tokens: int) -> list[Prefix]:
        """Prefixes of whole pages within its first tokens."""
        return [(self.salt, tuple(self.token_ids[:end])) for end in range(PAGE, num_tokens + 1, PAGE)]


def count_while(holds, items) -> int:
    return next((place for place, item in enumerate(items) if not holds(item)), len(items))


class PrefixMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.allocator = KvPool.of_pages(PAGES, PAGE)
        self.cache = PrefixCache(self.allocator)
        self.users: list[User] = []
        # Ready prefix -> when it was used last.
        self.ready: dict[Prefix, int] = {}
        self.awaited: set[Prefix] = set()
        # What was computed into each page.
        self.content: dict[int, Prefix] = {}
        self.clock = 0

    def is_promised(self, prefix: Prefix) -> bool:
        return any(prefix in user.promised for user in self.users)

    def touch(self, prefixes: list[Prefix]) -> None:
        self.clock += 1
        self.ready |= dict.fromkeys(prefixes, self.clock)

    def make_room(self, pages: int) -> bool:
        """The cache evicts what the model does: what nobody holds and nothing goes on from, the oldest first."""
        held = {prefix for user in self.users for prefix in (*user.held, *user.promised)}
        free = self.allocator.num_free
        while free < pages:
            inner = {(salt, tokens[:-PAGE]) for salt, tokens in (*self.ready, *held)}
            leaves = [prefix for prefix in self.ready if prefix not in held and prefix not in inner]
            if not leaves:
                break
            del self.ready[min(leaves, key=lambda prefix: self.ready[prefix])]
            free += 1
        self.cache.make_room(pages)
        assert self.allocator.num_free == free
        return free >= pages

    @rule(prompt=PROMPTS, salt=st.sampled_from([b"", b"a"]), waits=st.booleans())
    def arrive(self, prompt: list[int], salt: bytes, waits: bool) -> None:
        hold, last = self.cache.match(salt, prompt)
        user = User(salt, list(prompt), hold)
        ways = user.ways(len(prompt))
        found = count_while(self.ready.__contains__, ways)
        assert [self.content[page] for page in hold.pages] == ways[:found], "the longest ready prefix of its salt"
        after = count_while(self.is_promised, ways[found:])
        assert (last and prefix_of(last)) == (ways[found + after - 1] if after else None)
        user.held = ways[:found]
        self.touch(user.held)
        self.users.append(user)
        self.allocator.share(hold.pages)
        user.table = PageTable(hold.pages)
        if last is not None and waits:
            last.awaited = True
            self.awaited.add(prefix_of(last))
            self.leave(user)
            return
        missing = -(-len(prompt) // PAGE) - found
        if not self.make_room(missing):
            self.leave(user)
            return
        user.table.grow(self.allocator, missing)
        user.computed = found * PAGE
        self.cache.promise(hold, user.token_ids, level=1)
        user.promised = [] if after else ways[found:]

    @precondition(lambda self: self.users)
    @rule(data=st.data(), tokens=st.integers(1, 6), generated=st.sampled_from([(), (1,), (2, 1)]))
    def compute(self, data: st.DataObject, tokens: int, generated: tuple[int, ...]) -> None:
        user = data.draw(st.sampled_from(self.users))
        user.token_ids += generated
        began, user.computed = user.computed, min(user.computed + tokens, len(user.token_ids))
        missing = -(-user.computed // PAGE) - len(user.table)
        if missing > 0 and self.make_room(missing):
            user.table.grow(self.allocator, missing)
        user.computed = min(user.computed, len(user.table) * PAGE)
        ways = user.ways(user.computed)
        self.content |= dict(zip(user.table.pages[began // PAGE :], ways[began // PAGE :], strict=False))
        waited_for = False
        for way in ways[len(user.held) :]:
            if way in user.promised:
                user.promised.remove(way)
                waited_for |= way in self.awaited
                self.awaited.discard(way)
            elif self.is_promised(way):
                break
            self.ready.setdefault(way, self.clock)
            user.held.append(way)
        kept = self.cache.keep(user.hold, user.token_ids, user.table, user.computed)
        assert kept == waited_for

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.leave(data.draw(st.sampled_from(self.users)))

    def leave(self, user: User) -> None:
        self.users.remove(user)
        self.touch(user.held)
        self.awaited -= set(user.promised)
        self.cache.release(user.hold)
        user.table.release(self.allocator)

    @rule(pages=st.integers(1, PAGES))
    def room_is_wanted(self, pages: int) -> None:
        self.make_room(pages)

    @invariant()
    def sound(self) -> None:
        assert self.cache.check_integrity() == []
        tables = [*(user.table for user in self.users), self.cache.table()]
        assert self.allocator.check_integrity(tables) == []
        assert {self.content[page] for page in self.cache.table().pages} == set(self.ready)
        assert self.cache.num_pages == len(self.ready)

    def teardown(self) -> None:
        for user in list(self.users):
            self.leave(user)
        self.sound()
        assert self.allocator.num_free + self.cache.num_evictable == PAGES
        assert self.make_room(PAGES)
        assert self.cache.num_pages == self.cache.num_evictable == 0
        self.sound()


PrefixMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestPrefixMachine = PrefixMachine.TestCase


def served(cache: PrefixCache, allocator: KvPool, token_ids: list[int], salt: bytes = b"") -> int:
    """Serve a sequence alone; returns how many of its pages were found."""
    hold, _ = cache.match(salt, token_ids)
    found = len(hold.nodes)
    allocator.share(hold.pages)
    table = PageTable(hold.pages)
    missing = -(-len(token_ids) // allocator.page_size) - found
    cache.make_room(missing)
    table.grow(allocator, missing)
    cache.keep(hold, token_ids, table, len(token_ids))
    cache.release(hold)
    table.release(allocator)
    return found


def test_whole_pages_of_the_longest_common_prefix_are_found():
    allocator = KvPool.of_pages(100, 4)
    cache = PrefixCache(allocator)
    assert served(cache, allocator, list(range(18))) == 0
    assert served(cache, allocator, list(range(18))) == 4, "the last page is not full"
    assert served(cache, allocator, [*range(9), 99, 98, 97]) == 2, "they part within the third page"
    assert served(cache, allocator, [1, *range(1, 18)]) == 0
    assert served(cache, allocator, list(range(3))) == 0
    assert cache.num_pages == cache.num_evictable == 4 + 1 + 4


def test_nothing_is_found_across_salts():
    allocator = KvPool.of_pages(100, 4)
    cache = PrefixCache(allocator)
    served(cache, allocator, list(range(16)), b"one")
    assert served(cache, allocator, list(range(16)), b"two") == 0
    assert served(cache, allocator, list(range(16)), b"one") == 4


def test_token_ids_are_told_apart_over_their_whole_width():
    allocator = KvPool.of_pages(100, 2)
    cache = PrefixCache(allocator)
    served(cache, allocator, [1, 2**16])
    assert served(cache, allocator, [1, 0]) == 0
    assert served(cache, allocator, [1 + 2**16, 2**16]) == 0
    assert served(cache, allocator, [1, 2**16]) == 1


def test_the_least_recently_used_goes_first_and_ends_go_before_beginnings():
    allocator = KvPool.of_pages(6, 2)
    cache = PrefixCache(allocator)
    old, new = [1, 1, 2, 2, 3, 3], [1, 1, 5, 5, 6, 6]
    served(cache, allocator, old)
    served(cache, allocator, new)
    cache.make_room(2)
    assert allocator.num_free == 2
    assert served(cache, allocator, old[:4]) == 2, "only the end of the older one is gone"
    assert served(cache, allocator, new) == 3


def test_what_is_held_is_never_evicted():
    allocator = KvPool.of_pages(4, 2)
    cache = PrefixCache(allocator)
    served(cache, allocator, [1, 1, 2, 2, 3, 3])
    hold, _ = cache.match(b"", [1, 1, 2, 2])
    cache.make_room(4)
    assert (allocator.num_free, cache.num_pages, cache.num_evictable) == (2, 2, 0)
    cache.release(hold)
    cache.make_room(4)
    assert (allocator.num_free, cache.num_pages, cache.num_evicted) == (4, 0, 3)


def test_a_salt_without_pages_leaves_nothing_behind():
    allocator = KvPool.of_pages(4, 2)
    cache = PrefixCache(allocator)
    for index in range(100):
        hold, _ = cache.match(f"tenant {index}".encode(), [1, 2, 3])
        cache.release(hold)
    served(cache, allocator, [1, 1], b"last")
    cache.make_room(4)
    assert cache.check_integrity() == []


def test_work_does_not_grow_with_use():
    """What is pushed for eviction each time a leaf is let go is collected again."""
    allocator = KvPool.of_pages(8, 2)
    cache = PrefixCache(allocator)
    for _ in range(4000):
        served(cache, allocator, [1, 1])
        assert len(cache._leaves) < 2000
    cache.make_room(8)
    assert allocator.num_free == 8


def test_what_is_unsound_is_said():
    allocator = KvPool.of_pages(8, 2)
    cache = PrefixCache(allocator)
    served(cache, allocator, [1, 1, 2, 2])
    assert cache.check_integrity() == []
    cache.num_evictable += 1
    assert "num_evictable = 3; its nodes say 2" in " ".join(cache.check_integrity())
    hold, _ = cache.match(b"", [1, 1, 2, 2])
    hold.nodes[0].users = 0
    assert "fewer users than one after it" in " ".join(cache.check_integrity())
