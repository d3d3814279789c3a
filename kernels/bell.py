"""What wakes another thread's event loop: eight bytes written to a file descriptor that it waits for."""

import os
import sys

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
