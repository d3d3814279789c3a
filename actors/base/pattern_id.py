"""What a pattern, an example of a named router, is called: by memory, by the router, and in the graph."""

import json
import uuid

_IDS = uuid.UUID("7f0a5c1e-37f5-4a3e-9a52-0a4f6d1c2b9e")


def pattern_id(tenant: str, router: str, text: str) -> str:
    """A UUID, the same wherever it is asked for."""
    return str(uuid.uuid5(_IDS, json.dumps([tenant, router, text])))
