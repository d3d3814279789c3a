"""The size of the KV slab."""

import pytest

from actors.base.errors import InvalidArgument, Unavailable
from actors.worker.slab import allocate, available_memory, choose_pages

PAGE = 1 << 18


def test_unconfigured_takes_a_quarter_of_what_is_available() -> None:
    assert choose_pages(PAGE, 16, 8192, 64, 0, 8 << 30) == (2 << 30) // PAGE


def test_never_more_than_every_row_needs() -> None:
    assert choose_pages(PAGE, 16, 2048, 4, 0, 1 << 40) == 4 * 128
    assert choose_pages(PAGE, 16, 2048, 4, 1 << 40, 1 << 40) == 4 * 128


def test_configured_bytes_are_not_exceeded() -> None:
    assert choose_pages(PAGE, 16, 8192, 64, 100 * PAGE + 1, 1 << 40) == 100


def test_too_little_names_the_numbers_and_the_way_out() -> None:
    with pytest.raises(InvalidArgument, match=rf"kv_memory_bytes = {PAGE}: .* 32 pages of {PAGE} bytes"):
        choose_pages(PAGE, 16, 8192, 64, PAGE, 1 << 40)
    with pytest.raises(Unavailable, match=r"too little memory: 1000 bytes are available.*kv_memory_bytes"):
        choose_pages(PAGE, 16, 8192, 64, 0, 1000)


def test_a_short_context_needs_only_itself() -> None:
    assert choose_pages(PAGE, 16, 32, 64, 2 * PAGE, 1 << 40) == 2


def test_allocation_measures_a_page(toy) -> None:
    kv = allocate(toy, 8, max_rows=4, configured_bytes=24 * 8 * 8, tiered=False)
    assert (kv.pages, kv.page_size, len(kv.tiers)) == (24, 8, 1)


def test_every_format_may_take_the_bytes_of_the_pages(toy) -> None:
    kv = allocate(toy, 16, max_rows=4, configured_bytes=48 * 16 * 8, tiered=True)
    assert (kv.pages, len(kv.tiers)) == (48, 4)
    assert [(tier.format, tier.first_page, tier.units, tier.unit_pages) for tier in kv.tiers[1:]] == [
        ("q8", 48, 12, 4),
        ("q4", 96, 12, 4),
        ("q2", 144, 12, 4),
    ]


@pytest.mark.parametrize("page_size", [8, 48, 128])
def test_pages_that_make_up_no_block_have_no_tiers(toy, page_size: int) -> None:
    assert len(allocate(toy, page_size, max_rows=4, configured_bytes=1 << 20, tiered=True).tiers) == 1


def test_memory_that_cannot_be_had_is_an_error_with_numbers(toy, monkeypatch) -> None:
    one_page = toy.allocate_kv(1, 8)

    def allocate_kv(pages: int, page_size: int, blocks: object = None):
        if pages > 1:
            raise MemoryError(f"{pages} pages")
        return one_page

    monkeypatch.setattr(toy, "allocate_kv", allocate_kv)
    with pytest.raises(Unavailable, match="1536 bytes cannot be had"):
        allocate(toy, 8, max_rows=4, configured_bytes=24 * 8 * 8, tiered=False)


def test_available_memory_is_a_plausible_number() -> None:
    assert 1 << 20 < available_memory() < 1 << 50
