"""How large the KV slab is: a pure choice, the memory it may come from, and its allocation."""

import logging
import os
import sys
from pathlib import Path

from actors.base.errors import InvalidArgument, Unavailable
from kernels.decoder import Decoder, Kv

log = logging.getLogger(__name__)

SHARE = 0.25
"""Of the memory available, what an unconfigured slab may take: the weights and other replicas need the rest."""

FORMATS = ("q8", "q4", "q2")
BLOCK_PAGE_SIZES = (16, 32, 64)
"""Tokens of a page where quantized blocks can be had (kernels.decoder.KV_BLOCK is made up of whole ones)."""

LEAST_TOKENS = 512
"""A slab below this (or below the model's context, where that is less) serves nothing useful."""


def choose_pages(
    page_bytes: int, page_size: int, context_length: int, max_rows: int, configured_bytes: int, available_bytes: int
) -> int:
    """Pages of the slab: what `configured_bytes` hold, or where that is 0, SHARE of the available bytes.

    Never more than max_rows full contexts need. Raises InvalidArgument (configured) or Unavailable (machine) with the
    numbers where not even LEAST_TOKENS fit.
    """
    pages_per_context = -(-context_length // page_size)
    budget = configured_bytes or int(available_bytes * SHARE)
    pages = min(budget // page_bytes, max_rows * pages_per_context)
    least = min(-(-LEAST_TOKENS // page_size), pages_per_context)
    if pages >= least:
        return pages
    wanted = f"the least useful KV slab is {least} pages of {page_bytes} bytes = {least * page_bytes} bytes"
    if configured_bytes:
        raise InvalidArgument(f"kv_memory_bytes = {configured_bytes}: {wanted}; raise it", param="kv_memory_bytes")
    raise Unavailable(
        f"too little memory: {available_bytes} bytes are available, of which the KV slab may take {SHARE:.0%}, and "
        f"{wanted}; free memory, serve a smaller model, or set kv_memory_bytes"
    )


def allocate(decoder: Decoder, page_size: int, max_rows: int, configured_bytes: int, tiered: bool) -> Kv:
    """The decoder's slab, sized by `choose_pages` from the measured size of a page.

    `tiered` adds quantized blocks where pages of this size make up blocks: of each format as many as the bytes of the
    pages hold. Whoever plans keeps what is in use of all of them within those bytes.
    """
    page_bytes = decoder.allocate_kv(1, page_size).nbytes
    available = available_memory()
    pages = choose_pages(page_bytes, page_size, decoder.spec.context_length, max_rows, configured_bytes, available)
    blocks: dict[str, int] = {}
    if tiered and page_size in BLOCK_PAGE_SIZES:
        _, *quantized = decoder.allocate_kv(1, page_size, dict.fromkeys(FORMATS, 1)).tiers
        blocks = {tier.format: pages * page_bytes // tier.unit_bytes for tier in quantized}
    log.info(
        "KV slab: %d pages of %d bytes (%d tokens), blocks %s; %d bytes available",
        pages, page_bytes, page_size, blocks or "none", available,
    )  # fmt: skip
    try:
        return decoder.allocate_kv(pages, page_size, blocks)
    except MemoryError as failure:
        raise Unavailable(
            f"the KV slab of {pages * page_bytes} bytes cannot be had ({failure}); set kv_memory_bytes below "
            f"{pages * page_bytes}"
        ) from failure


def available_memory() -> int:
    """Bytes this process may still take: what the machine has left, within what its cgroup has left."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "darwin":
        return physical // 2  # macOS tells no such number cheaply; half leaves room for weights and the system
    return min(_meminfo_available(physical), *_cgroup_left(Path("/sys/fs/cgroup")), physical)


def _meminfo_available(otherwise: int) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return otherwise


def _cgroup_left(root: Path) -> list[int]:
    """Bytes left under each memory limit from our cgroup (v2) up; none where there is no limit."""
    try:
        own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2].lstrip("/")
    except FileNotFoundError:
        return []
    left = []
    for directory in (root / own, *(root / own).parents):
        if not directory.is_relative_to(root):
            break
        limit, current = directory / "memory.max", directory / "memory.current"
        if limit.is_file() and current.is_file() and (most := limit.read_text().strip()) != "max":
            left.append(max(int(most) - int(current.read_text()), 0))
    return left
