"""The documentation says what is so: links, commands, settings, modules and examples are checked against the code."""

import ast
import importlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import httpx
import pytest
import typer

from cluster.cli import app
from cluster.config import Config, load
from cluster.local import LocalCluster
from cluster.report import config_table

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PACKAGES = ("protos", "kernels", "actors", "cluster", "deploy", "tests", "docs")
FILES = (".key", ".log", ".py", ".sock", ".token", ".toml")
CONTEXT = "8192"
"""The default model's context as the pages show it; the tests' own KV slab is smaller."""
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")


class Block(NamedTuple):
    """A fenced block: its language, the rest of the fence's line, its text."""

    language: str
    rest: str
    text: str


def blocks(page: Path) -> list[Block]:
    fenced = FENCE.findall(page.read_text())
    return [Block(info.partition(" ")[0], info.partition(" ")[2], text) for info, text in fenced]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def everywhere(language: str) -> list[Any]:
    """Each block of a language, as a test parameter named after its page."""
    found = [(page, block.text) for page in PAGES for block in blocks(page) if block.language == language]
    return [pytest.param(text, id=f"{page.stem}-{index}") for index, (page, text) in enumerate(found)]


def code_in(page: Path) -> Iterator[str]:
    """What a reader could type: inline code, and the lines of console blocks."""
    yield from CODE.findall(prose(page))
    for block in blocks(page):
        if block.language == "console":
            text = block.text.replace("\\\n", " ")
            yield from (line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ "))


def anchors(page: Path) -> set[str]:
    """The ids that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading in {target.name}: {sorted(anchors(target))}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_are_there(page: Path) -> None:
    for code in CODE.findall(prose(page)):
        name = code.split(":")[0]
        if re.fullmatch(rf"({'|'.join(PACKAGES)})/[\w./-]+", name):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        seen.add(page)
        for link in LINK.findall(page.read_text()):
            target = (page.parent / link.partition("#")[0]).resolve()
            found = sorted(target.glob("*.md")) if target.is_dir() else [target]
            todo += [each for each in found if each in PAGES and each not in seen]
    assert sorted(seen) == PAGES


def commands() -> dict[str, Any]:
    """Click's commands by name."""
    group: Any = typer.main.get_command(app)
    return group.commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_russet_commands_exist_with_their_options(page: Path) -> None:
    for code in code_in(page):
        match = re.match(r"(?:\.venv/bin/)?russet ([a-z]+)(?: (.*))?$", code)
        if not match:
            continue
        assert match[1] in commands(), f"{page.name}: {code}"
        command, words = commands()[match[1]], shlex.split(match[2] or "")
        below = getattr(command, "commands", None)
        if words and below and not (words[0].startswith("-") and command.invoke_without_command):
            assert words[0] in below, f"{page.name}: {code}"
            command = below[words[0]]
        known = {name for each in command.params for name in (*each.opts, "--help")}
        used = [part.split("=")[0] for part in words if part.startswith("-")]
        assert set(used) <= known, f"{page.name}: {code}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for code in code_in(page):
        if match := re.match(r"(?:time )?make ([a-z]+)", code):
            assert match[1] in targets, f"{page.name}: {code}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_run_as_commands_exist(page: Path) -> None:
    for code in code_in(page):
        if match := re.search(r"python -m ([\w.]+)", code):
            assert find_spec(match[1]), f"{page.name}: {code}"


def settings() -> dict[str, str]:
    """Every setting's meaning by its dotted name, as `russet config` prints them."""
    names, _, meanings = (list(column.cells) for column in config_table(load(environ={})).columns)
    return dict(zip(map(str, names), map(str, meanings), strict=True))


def test_russet_config_explains_every_field() -> None:
    assert all(settings().values()), [name for name, meaning in settings().items() if not meaning]
    # Every field of every section is a row.
    for section, field in Config.model_fields.items():
        model = getattr(field.annotation, "model_fields", None)
        prefix = "models.0" if section == "models" else section
        for name in model or ():
            assert f"{prefix}.{name}" in settings()
        assert section in settings() or any(name.startswith(f"{prefix}.") for name in settings())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_named_exist(page: Path) -> None:
    sections = "|".join(name for name, field in Config.model_fields.items() if field.annotation not in (bool, Path))
    for code in code_in(page):
        for section, name in re.findall(rf"(?<![\w./-])({sections})\.((?:[N\d]\.)?[a-z_]+)(?![\w/.(])", code):
            dotted = f"{section}.{re.sub(r'^[N0-9][.]', '0.', name)}"
            assert dotted in settings() or dotted.endswith(FILES), f"{page.name}: {code}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_environment_variables_are_settings(page: Path) -> None:
    for code in code_in(page):
        for name, value in re.findall(r"\b(RUSSET_\w+)=(\w+)", code):
            assert load(environ={name: value}) != load(environ={}), f"{page.name}: {code} changes nothing"


@pytest.mark.parametrize("text", everywhere("toml"))
def test_toml_examples_are_configurations(text: str, tmp_path: Path) -> None:
    (tmp_path / "russet.toml").write_text(text)
    config = load(tmp_path / "russet.toml", environ={})
    assert set(tomllib.loads(text)) <= set(Config.model_fields)
    assert config.models


@pytest.mark.parametrize("text", everywhere("json"))
def test_json_examples_parse(text: str) -> None:
    assert json.loads(text)


@pytest.mark.parametrize("text", everywhere("text"))
def test_events_shown_parse(text: str) -> None:
    for line in text.splitlines():
        if line.startswith("data: {"):
            assert json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize("text", everywhere("python"))
def test_python_examples_import_what_there_is(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or find_spec(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("picture", sorted(ROOT.glob("docs/**/*.svg")), ids=lambda path: path.name)
def test_pictures_stand_alone_and_have_a_dark_side(picture: Path) -> None:
    text = picture.read_text()
    root = ElementTree.fromstring(text)
    assert root.find("{http://www.w3.org/2000/svg}desc") is not None
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"href|@import|<script|<image", text)
    assert any(f"({picture.relative_to(page.parent)})" in page.read_text() for page in PAGES if page.parent == ROOT)


def examples() -> list[Any]:
    """Each request of a page with the answer that follows it, if one does: (path, body, status, answer)."""
    found = []
    for page in PAGES:
        shown = [block for block in blocks(page) if block.language == "json"]
        for block, after in zip_longest(shown, shown[1:], fillvalue=Block("", "", "")):
            if not block.rest.startswith("POST "):
                continue
            status = int(after.rest) if after.rest.isdigit() else 200
            answer = after.text if after.rest.isdigit() else ""
            path = block.rest.removeprefix("POST ")
            found.append(pytest.param(path, block.text, status, answer, id=f"{page.stem}-{len(found)}"))
    return found


def shape(value: Any) -> Any:
    """Names and types, without the values."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    return [shape(each) for each in value[:1]] if isinstance(value, list) else type(value).__name__


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("path", "body", "status", "answer"), examples())
async def test_examples_are_answered_as_shown(
    local: LocalCluster, path: str, body: str, status: int, answer: str
) -> None:
    async with httpx.AsyncClient(base_url=local.http, timeout=60) as http:
        context = (await http.get("/v1/models")).json()["data"][0]["russet"]["context_length"]
        response = await http.post(path, content=body)
    assert response.status_code == status
    if status == 200 and answer:
        assert shape(response.json()) == shape(json.loads(answer))
    elif answer:
        assert response.json() == json.loads(answer.replace(CONTEXT, str(context)))


@pytest.mark.asyncio(loop_scope="module")
async def test_metrics_named_are_the_metrics_there_are(local: LocalCluster) -> None:
    async with httpx.AsyncClient(base_url=local.http, timeout=60) as http:
        text = (await http.get("/metrics")).text
    there = {name for name in re.findall(r"^# TYPE (\S+)", text, re.MULTILINE) if not name.endswith("_created")}
    table = (ROOT / "docs" / "api.md").read_text().partition("## Metrics")[2]
    shown = {name for name in CODE.findall(table) if re.match(r"(russet_|vllm:)", name)}
    assert shown == there
    named = {name for page in PAGES for name in CODE.findall(prose(page)) if re.match(r"(russet_\w+|vllm:\w+)$", name)}
    assert named <= there
