"""What wakes another thread: eight bytes written to a file descriptor that it waits for."""

import os
import sys
from typing import NamedTuple

NO_BELL = -1
"""In place of a file descriptor: nobody waits."""

_EIGHT_BYTES = (1).to_bytes(8, sys.byteorder)


def ring(bell: int) -> None:
    """Write to `bell` (non-blocking; NO_BELL is none): rings that nobody has heard yet are one."""
    if bell == NO_BELL:
        return
    try:
        os.write(bell, _EIGHT_BYTES)
    except BlockingIOError:
        return  # full of rings that nobody has heard yet


class Errand(NamedTuple):
    """What another thread does while a forward runs, and what the draw after it needs: filling its masks.

    Whoever draws rings `begin` once it can do without the GIL, and reads eight bytes from `done`, blocking, before it
    looks at a mask: also where the forward fails, so that nobody writes to the masks after it returned.
    """

    begin: int
    done: int


NO_ERRAND = Errand(NO_BELL, NO_BELL)
"""Nothing is waited for."""


def wait(done: int) -> None:
    """Return once eight bytes were written to `done` (NO_BELL: at once)."""
    if done != NO_BELL:
        os.read(done, 8)
