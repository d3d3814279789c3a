"""When: what users and operators write for a moment."""

import math
import re
import time
from datetime import datetime

from actors.base.errors import InvalidArgument

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])")
_UNIX = re.compile(r"\d{1,11}(?:\.\d{1,9})?")
ACCEPTED = "accepted: 30m, 1h or 7d for so long ago, Unix seconds, or a date as 2026-11-21 or 2026-11-21T10:00:00Z"


def moment_ms(text: str, param: str, now_s: float | None = None) -> int:
    """Unix milliseconds of a moment. A date without a zone is in that of this machine. Raises InvalidArgument."""
    now_s = time.time() if now_s is None else now_s
    if ago := _AGO.fullmatch(text):
        return max(0, math.floor((now_s - float(ago[1]) * UNITS_S[ago[2]]) * 1000))
    if _UNIX.fullmatch(text):
        return math.floor(float(text) * 1000)
    try:
        return max(0, math.floor(datetime.fromisoformat(text).timestamp() * 1000))
    except (ValueError, OverflowError, OSError):
        raise InvalidArgument(f"{param} is {text[:40]!r}; {ACCEPTED}", param=param) from None
