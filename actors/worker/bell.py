"""How the engine thread wakes an event loop: by eight bytes to a file descriptor that the loop waits for.

To write them is a system call, for which Python gives the GIL away, and the loop that wakes keeps it for as long as it
has work: up to 0.6 ms between two steps. So the compiled decoder rings the bell itself once it has let the GIL go, and
no thread stands between engine and loop.
"""

import asyncio
import os
from collections.abc import Callable

from kernels.bell import ring


class Bell:
    """Rung by `ring`, or by eight bytes written to `fd`, from any thread; rings that nobody has heard yet are one."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        if hasattr(os, "eventfd"):
            self.fd = self._heard = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._heard, self.fd = os.pipe()
            os.set_blocking(self._heard, False)
            os.set_blocking(self.fd, False)

    def ring(self) -> None:
        """Call the listener, from its loop."""
        ring(self.fd)

    def listen(self, heard: Callable[[], None]) -> None:
        """Call `heard` in the running loop after each ring."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._heard, self._answer, heard)

    def _answer(self, heard: Callable[[], None]) -> None:
        os.read(self._heard, 4096)
        heard()

    def close(self) -> None:
        """Give its descriptors back: whoever rings must have ended."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._heard)
        for descriptor in {self.fd, self._heard}:
            os.close(descriptor)
