"""mlx-lm's server as it comes, and with OpenBLAS in place of the reference BLAS that MLX's Linux wheel bundles.

Both live in .peers/, made by tests/benchmarks/install-peers, and serve float32 weights made from the same GGUF as
Russet's (mlx-lm cannot read GGUF): stock MLX decodes a 4-bit conversion no faster on a CPU, and OpenBLAS only helps
floats. The directory names no end-of-text token, so every answer has the tokens that were asked for.
"""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.bench import Load, run
from cluster.ray_process import free_port
from tests.benchmarks.harness import ROOT
from tests.benchmarks.processes import private_home, server

FOLDER = ROOT / ".peers"
PYTHON = FOLDER / "mlx-lm" / "bin" / "python"
MODEL = FOLDER / "smollm2-135m-float32"
MODEL_NAME = "default_model"
"""What mlx-lm's server calls the model it was started with."""
OPENBLAS = FOLDER / "libcblas-openblas.so"
STOCK, WITH_OPENBLAS = "mlx-lm", "mlx-lm + OpenBLAS"
INSTALL = "not installed: run tests/benchmarks/install-peers"


@dataclass(frozen=True)
class Peer:
    """One way to run mlx-lm's server. `streams` at once stand for the 16."""

    name: str
    note: str
    streams: int
    preload: Path | None = None

    def missing(self) -> str | None:
        """How to install what is not there."""
        needed = (PYTHON, MODEL / "config.json", *([self.preload] if self.preload else []))
        return None if all(path.exists() for path in needed) else INSTALL

    @asynccontextmanager
    async def server(self) -> AsyncGenerator[str, None]:
        """The server's base URL, warm."""
        port = free_port()
        command = [PYTHON, "-m", "mlx_lm", "server", "--model", MODEL, "--host", "127.0.0.1", "--port", str(port)]
        environ = {"HF_HUB_OFFLINE": "1"}
        if self.preload:
            environ["DYLD_INSERT_LIBRARIES" if sys.platform == "darwin" else "LD_PRELOAD"] = str(self.preload)
        with private_home() as home:
            url = f"http://127.0.0.1:{port}"
            async with server(command, f"{url}/health", home / "peer.log", environ):
                await run(url, Load(1, 1, 8, 2, model=MODEL_NAME, body={}, warm_up_tokens=0))
                yield url


PEERS = (
    Peer(STOCK, "stock, float32 weights; 4 streams for the 16, since stock MLX gains nothing from a batch", 4),
    Peer(WITH_OPENBLAS, "OpenBLAS preloaded, float32 weights", 16, OPENBLAS),
)
