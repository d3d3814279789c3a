"""What is asked during a soak: every kind of answer that must survive a kill unchanged, greedy and seeded."""

from typing import Any

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"animal": {"type": "string", "maxLength": 40}, "legs": {"type": "integer"}},
    "required": ["animal", "legs"],
}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 30}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
TALE = "Once upon a time there was a fox who lived at the edge of a great forest, and"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def _completion(prompt: str, tokens: int, **more: Any) -> tuple[str, dict[str, Any]]:
    return COMPLETIONS, {"model": "auto", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, **more}


def _chat(question: str, tokens: int, **more: Any) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": question}]
    return CHAT, {"model": "auto", "messages": messages, "max_tokens": tokens, **more}


REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "greedy": _completion(TALE, 160, temperature=0),
    "greedy, long prompt": _completion(f"{TALE} so on. " * 24, 64, temperature=0),
    "seeded": _completion(TALE, 120, temperature=0.9, seed=7),
    "seeded, penalties": _completion(TALE, 96, temperature=1.0, top_p=0.9, seed=11, presence_penalty=0.5),
    "greedy chat": _chat("Why is the sky blue?", 120, temperature=0),
    "seeded chat": _chat("Tell me of the sea.", 120, temperature=0.8, seed=3),
    "schema": _chat(
        "Name an animal and its legs.", 80, temperature=0.7, seed=5,
        response_format={"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA}},
    ),
    "tool": _chat(
        "What will the weather be in Paris in the next 3 days?", 80, temperature=0, tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
    ),
    "logprobs": _chat("Count to ten.", 48, temperature=0, logprobs=True, top_logprobs=2),
}  # fmt: skip
"""By name: path and body of requests whose answers depend on nothing but themselves."""
