"""The waiting queue: who is next. Priority with aging first, then the policy."""

from collections.abc import Callable, Iterator

from actors.scheduler.config import Policy
from actors.scheduler.sequence import LEVELS, Sequence
from protos.gen import inference_pb2

Key = tuple[float, ...]


def age_level(sequence: Sequence, now_s: float, aging_s: float) -> int:
    """Priority level plus one for each aging_s since arrival.

    It has no ceiling, so whoever waits long enough is above everything that arrived later: nobody starves.
    """
    return sequence.level + int((now_s - sequence.arrival_s) / aging_s)


def order_key(policy: Policy, now_s: float, aging_s: float) -> Callable[[Sequence], Key]:
    """Sort key of waiting sequences: smaller goes first.

    Within a level, preempted sequences resume before new ones start: they hold up a client that already reads.
    """

    def level(sequence: Sequence) -> tuple[int, bool]:
        return -age_level(sequence, now_s, aging_s), sequence.num_preemptions == 0

    match policy:
        case "fcfs":
            return lambda sequence: (sequence.index,)
        case "priority":
            return lambda sequence: (*level(sequence), sequence.index)
        case "shortest":
            return lambda sequence: (
                *level(sequence),
                sequence.max_length - sequence.num_tokens,
                sequence.num_tokens,
                sequence.index,
            )
        case "fair":
            return lambda sequence: (*level(sequence), sequence.fair_tag, sequence.index)


class WaitingQueue:
    """Sequences that wait for pages and a row.

    Under the fair policy every sequence gets a virtual start time on arrival (start-time fair queueing, Goyal et al.
    1996): a tenant's next request starts where its last one ends, so a tenant that asks for much waits behind one
    that asks for little, and a tenant that was away has saved nothing up.
    """

    def __init__(self, policy: Policy, aging_s: float) -> None:
        self.policy: Policy = policy
        self.aging_s = aging_s
        self._waiting: dict[int, Sequence] = {}
        self._virtual_time = 0.0
        self._next_tag: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting.values())

    def arrive(self, sequence: Sequence) -> None:
        """A new request; its index must be unique. Under fcfs its level is forgotten, for preemption too."""
        if self.policy == "fcfs":
            sequence.level = LEVELS[inference_pb2.PRIORITY_NORMAL]
        sequence.fair_tag = max(self._virtual_time, self._next_tag.get(sequence.tenant, 0.0))
        self._next_tag[sequence.tenant] = sequence.fair_tag + sequence.max_length
        self._waiting[sequence.index] = sequence

    def put_back(self, sequence: Sequence) -> None:
        """A preempted or interrupted sequence; it keeps its arrival, its tag and so its place."""
        self._waiting[sequence.index] = sequence

    def admit(self, sequence: Sequence) -> None:
        """It runs from now on."""
        del self._waiting[sequence.index]
        self._virtual_time = max(self._virtual_time, sequence.fair_tag)
        # Tenants whose tag has been overtaken start at the virtual time anyway: forget them.
        if len(self._next_tag) > 2 * len(self._waiting) + 64:
            self._next_tag = {tenant: tag for tenant, tag in self._next_tag.items() if tag > self._virtual_time}

    def discard(self, sequence: Sequence) -> None:
        """It will never run: its client is gone or it cannot be served any more."""
        del self._waiting[sequence.index]

    def ordered(self, now_s: float) -> list[Sequence]:
        """All that wait, the next one first."""
        return sorted(self._waiting.values(), key=order_key(self.policy, now_s, self.aging_s))
