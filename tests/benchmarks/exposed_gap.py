"""The gap between steps, read from the scheduler's own metric."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from actors.base.errors import Unavailable

NAME = "russet_scheduler_gap_seconds"


async def gap_totals(url: str) -> tuple[float, float]:
    """Sum in seconds and count of the gap histogram at a gateway's /metrics, over all replicas.

    Raises Unavailable where there is no answer.
    """
    try:
        async with httpx.AsyncClient(timeout=30) as http:
            text = (await http.get(f"{url}/metrics")).raise_for_status().text
    except httpx.HTTPError as error:
        raise Unavailable(f"no metrics at {url}: {error}") from None
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    seconds, count = (sum(s.value for s in samples if s.name == f"{NAME}_{part}") for part in ("sum", "count"))
    return seconds, count


def mean_gap_us(before: tuple[float, float], after: tuple[float, float]) -> list[float]:
    """Microseconds per step between two readings; empty where no step ran."""
    count = after[1] - before[1]
    return [1e6 * (after[0] - before[0]) / count] if count else []
