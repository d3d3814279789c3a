"""Chat templates of a model that has several."""

from typing import Any


def joined(default: Any, tool_use: Any) -> Any:
    """One template of the two that transformers knows by name: tool_use where there are tools, or else the default."""
    if not (isinstance(default, str) and isinstance(tool_use, str) and tool_use):
        return default
    return "{% if tools %}" + tool_use + "{% else %}" + default + "{% endif %}"
