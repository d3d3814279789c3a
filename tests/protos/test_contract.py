"""The generated code is what protoc makes of the .proto files, and the contract explains itself."""

import importlib
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from protos import generate

HERE = Path(generate.__file__).parent
PROTOS = sorted(HERE.glob("*.proto"))
FIELD = re.compile(r"((?:optional |repeated )?[\w.<>, ]+?) (\w+) = \d+;")
NUMBERS = ("int32", "int64", "uint32", "uint64", "fixed64", "float", "double")
UNITS = ("_us", "_ms", "_s", "_tokens", "_bytes")


def test_generated_code_is_what_protoc_makes_of_the_protos(tmp_path):
    # In a process of its own: protoc prints to the real stdout, and keeps state.
    subprocess.run([sys.executable, "-m", "protos.generate", str(tmp_path)], check=True, cwd=HERE.parent)
    fresh = {path.name: path.read_bytes() for path in (tmp_path / "protos" / "gen").iterdir()}
    kept = {path.name: path.read_bytes() for path in (HERE / "gen").iterdir() if path.suffix in (".py", ".pyi")}
    kept.pop("__init__.py", None)
    assert sorted(fresh) == sorted(kept), "run python -m protos.generate and remove what no proto makes"
    drifted = [name for name, content in fresh.items() if kept[name] != content]
    assert not drifted, "run python -m protos.generate and commit protos/gen"


@pytest.mark.parametrize("proto", PROTOS, ids=lambda path: path.stem)
def test_generated_modules_import_and_name_their_package(proto):
    messages = importlib.import_module(f"protos.gen.{proto.stem}_pb2")
    stubs = importlib.import_module(f"protos.gen.{proto.stem}_pb2_grpc")
    assert messages.DESCRIPTOR.package == f"russet.{proto.stem}.v1"
    for service in messages.DESCRIPTOR.services_by_name:
        assert hasattr(stubs, f"{service}Stub")
        assert hasattr(stubs, f"add_{service}Servicer_to_server")


def undocumented(text: str) -> list[str]:
    """Quantities whose unit neither a comment above them in their message, nor their name, nor their message tells."""
    missing, message, message_comment, comment, commented, above = [], "", "", "", "", False
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("//"):
            comment = comment + stripped if above else stripped
        elif match := re.match(r"(?:message|enum|service) (\w+)", stripped):
            message, message_comment, comment = match[1], comment, ""
        elif stripped in ("", "}"):
            comment = ""
        elif match := FIELD.match(stripped):
            kind, name = match[1], match[2]
            # A comment also speaks for the fields of the same type that follow directly.
            comment, commented = (comment, kind) if above or kind == commented else ("", "")
            named = name.endswith(UNITS)
            if kind.split()[-1] in NUMBERS and not (comment or message_comment or named):
                missing.append(f"{message}.{name}")
        above = stripped.startswith("//")
    return missing


@pytest.mark.parametrize("proto", PROTOS, ids=lambda path: path.stem)
def test_every_quantity_says_its_unit(proto):
    assert undocumented(proto.read_text()) == []


@pytest.mark.parametrize("proto", PROTOS, ids=lambda path: path.stem)
def test_every_file_and_streaming_method_is_explained(proto):
    lines = proto.read_text().splitlines()
    assert lines[0].startswith("//")
    for before, line in pairwise(lines):
        if line.strip().startswith("rpc") and "stream" in line:
            explained = before.strip().startswith("//") or before.strip().startswith("rpc")
            assert explained, line
