"""Who asks the gateway."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Caller:
    """Who asks. `tenant` is the name of the key, or what an open gateway was told."""

    tenant: str = ""
    admin: bool = False
    """Whether it is an operator, who may change what is served and look at what is not its own tenant's."""
