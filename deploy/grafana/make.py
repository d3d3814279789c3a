"""Writes the dashboards' JSON from their description: `python -m deploy.grafana.make`."""

import json
from pathlib import Path
from typing import Any

from deploy.grafana.panels import DASHBOARDS, Dashboard, Panel

DIRECTORY = Path(__file__).parent / "dashboards"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
SIZES = {"stat": (4, 4), "timeseries": (12, 8)}
"""Kind -> width and height on Grafana's grid."""
SCHEMA = 39
"""Of Grafana's dashboards; 10.0 and later read it."""


def dashboard(described: Dashboard) -> dict[str, Any]:
    """A dashboard as Grafana imports it."""
    choice = {"name": "datasource", "label": "Source", "type": "datasource", "query": "prometheus"}
    return {
        "uid": described.name,
        "title": described.title,
        "tags": ["russet"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [choice]},
        "links": [{"type": "dashboards", "title": "Russet", "tags": ["russet"], "asDropdown": True}],
        "panels": _placed(described.panels),
    }


def _placed(panels: tuple[Panel, ...]) -> list[dict[str, Any]]:
    """The panels from left to right, row by row."""
    placed: list[dict[str, Any]] = []
    x = y = row = 0
    for number, panel in enumerate(panels, 1):
        width, height = SIZES[panel.kind]
        if x + width > COLUMNS or (row and row != height):
            x, y = 0, y + row
        row = height
        placed.append(_panel(number, panel) | {"gridPos": {"x": x, "y": y, "w": width, "h": height}})
        x += width
    return placed


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    custom = {"fillOpacity": 10, "showPoints": "never", "spanNulls": False}
    if panel.stacked:
        custom |= {"stacking": {"mode": "normal"}, "fillOpacity": 30}
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.kind == "timeseries":
        defaults["custom"] = custom
    return {
        "id": number,
        "title": panel.title,
        "description": panel.about,
        "type": panel.kind,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def written(described: Dashboard) -> str:
    """The file's text."""
    return json.dumps(dashboard(described), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write them all."""
    for described in DASHBOARDS:
        (DIRECTORY / f"{described.name}.json").write_text(written(described))


if __name__ == "__main__":
    main()
