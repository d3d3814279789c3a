"""Regenerate protos/gen from the .proto files: `python -m protos.generate [OUTPUT_ROOT]`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent


def generate(root: Path) -> None:
    """Write protos/gen/*_pb2{,_grpc}.py and .pyi stubs below `root`. Raises RuntimeError where protoc fails."""
    from grpc_tools import protoc

    (root / "protos" / "gen").mkdir(parents=True, exist_ok=True)
    files = sorted(f"protos/gen/{path.name}" for path in HERE.glob("*.proto"))
    # The virtual path protos/gen makes the generated modules import each other as protos.gen.*.
    arguments = [
        "protoc",
        f"-Iprotos/gen={HERE}",
        f"--python_out={root}",
        f"--pyi_out={root}",
        f"--grpc_python_out={root}",
    ]
    if protoc.main([*arguments, *files]) != 0:
        raise RuntimeError("protoc failed; its message is above")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent)
