"""The formats there are, and which of them a chat template speaks."""

from cluster.gateway.tools.formats import Format
from cluster.gateway.tools.hermes import OPEN, Hermes
from cluster.gateway.tools.llama import TAG, Llama
from cluster.gateway.tools.mistral import MARKER, Mistral
from cluster.gateway.tools.mistral_args import ARGS, MistralArgs
from cluster.gateway.tools.pythonic import START, Pythonic
from cluster.gateway.tools.smollm import SmolLM

FORMATS: dict[str, Format] = {
    format.name: format for format in (Hermes(), SmolLM(), Llama(), Mistral(), MistralArgs(), Pythonic())
}
"""By name, as settings have it."""

_SIGNS: tuple[tuple[tuple[str, ...], str], ...] = (
    ((MARKER, ARGS), "mistral-args"),
    ((MARKER,), "mistral"),
    ((f"{OPEN}[",), "smollm"),
    ((OPEN,), "hermes"),
    ((START,), "pythonic"),
    (("func_name1(",), "pythonic"),
    ((TAG,), "llama"),
    (("<|start_header_id|>", '"parameters": '), "llama"),
    (("named SmolLM", "/no_think"), "hermes"),
    (("named SmolLM",), "smollm"),
)
"""Texts that a template has, all of them, and the format that it then speaks. The first that fits counts."""


def format_of(template: str) -> Format:
    """The format that a chat template shows its model; Hermes, the most common one, where it shows none."""
    named = (name for signs, name in _SIGNS if all(sign in template for sign in signs))
    return FORMATS[next(named, "hermes")]
