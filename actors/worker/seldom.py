"""Warnings of a fault that may show thousands of times a minute."""

import logging
import time

PERIOD_S = 60.0


class Seldom:
    """Logs one warning a minute, with how many were held back before it."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._last: float | None = None
        self._held_back = 0

    def warning(self, message: str, *arguments: object) -> None:
        """Log, or count as held back."""
        now = time.monotonic()
        if self._last is not None and now - self._last < PERIOD_S:
            self._held_back += 1
            return
        if self._held_back:
            message += f" ({self._held_back} more like it in the last minute)"
        self._log.warning(message, *arguments)
        self._last, self._held_back = now, 0
