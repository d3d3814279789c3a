"""Who asks the gateway."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Caller:
    """Who asks. `tenant` is the name of the key, or what an open gateway was told."""

    tenant: str = ""
    admin: bool = False
    """Whether it may change what is served."""
