"""What it takes to read KV and to compute it, as measured: the choice between the two."""

from protos.gen import worker_pb2

FIRST_LOAD_BYTES_PER_S, FIRST_PREFILL_TOKENS_PER_S = 2e8, 1000.0
"""What is assumed until it was measured."""

LOAD_OVERHEAD_S = 0.005
FADE, FORGET = 0.8, 1.02


class Costs:
    """What it takes to read KV and to compute it, as measured; it outlives epochs."""

    def __init__(self) -> None:
        self.load_bytes_per_s = FIRST_LOAD_BYTES_PER_S
        self.prefill_tokens_per_s = FIRST_PREFILL_TOKENS_PER_S

    def observe(self, result: worker_pb2.StepResult) -> None:
        """Learn from a result: from its loads, and from its steps where they were mostly prompts."""
        if result.load_us:
            self.load_bytes_per_s = _faded(self.load_bytes_per_s, result.load_bytes / result.load_us * 1e6)
        if result.busy_us and result.prefill_tokens > 8 * result.decode_tokens and result.prefill_tokens >= 64:
            rate = result.prefill_tokens / result.busy_us * 1e6
            self.prefill_tokens_per_s = _faded(self.prefill_tokens_per_s, rate)

    def forget(self) -> None:
        """Nothing was read as that seemed slow: believe it a little less, or it would never be measured again."""
        self.load_bytes_per_s = max(self.load_bytes_per_s, min(FORGET * self.load_bytes_per_s, FIRST_LOAD_BYTES_PER_S))

    def compute_s(self, tokens: int) -> float:
        """Seconds to compute a prompt of so many tokens."""
        return tokens / self.prefill_tokens_per_s

    def load_s(self, nbytes: int) -> float:
        """Seconds to read so many bytes of KV."""
        return LOAD_OVERHEAD_S + nbytes / self.load_bytes_per_s

    def restore(self, tokens: int, nbytes: int) -> bool:
        """Whether to read KV rather than to compute it."""
        return self.load_s(nbytes) < self.compute_s(tokens)

    def swap(self, tokens: int, nbytes: int) -> bool:
        """Whether a row that must give way is to be written to disk and read back rather than computed again."""
        return 2 * self.load_s(nbytes) < self.compute_s(tokens)


def _faded(former: float, observed: float) -> float:
    return FADE * former + (1 - FADE) * observed
