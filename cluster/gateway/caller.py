"""Who asks the gateway."""

from dataclasses import dataclass, field

from actors.base.quota import NO_LIMITS, Limits


@dataclass
class Spent:
    """What a request has used so far; its generations add to it as they end."""

    tokens: int = 0
    """Of prompts and answers."""


@dataclass(frozen=True)
class Caller:
    """Who asks. `tenant` is the name of the key, or what an open gateway was told."""

    tenant: str = ""
    admin: bool = False
    """Whether it is an operator, who may change what is served and look at what is not its own tenant's."""
    limits: Limits = NO_LIMITS
    spent: Spent = field(default_factory=Spent, compare=False)
