"""The kernels of arm64, built by a cross-compiler and run under an emulator, beside the portable ones."""

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = HERE.parents[2] / "kernels" / "cpu" / "src"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
FLAGS = ["-std=c++20", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-DRUSSET_AMX=0", f"-I{SOURCES}"]
# As in kernels/cpu/CMakeLists.txt.
UNITS: dict[Path, list[str]] = {
    HERE / "same_bits.cpp": [],
    SOURCES / "isa.cpp": [],
    SOURCES / "linear_scalar.cpp": [],
    SOURCES / "linear_neon.cpp": [],
    SOURCES / "linear_neon_dotprod.cpp": ["-march=armv8.2-a+dotprod"],
    SOURCES / "linear_neon_i8mm.cpp": ["-march=armv8.2-a+dotprod+i8mm"],
}
KV_UNITS: dict[Path, list[str]] = {
    HERE / "near_kv.cpp": [],
    SOURCES / "vector_scalar.cpp": [],
    SOURCES / "vector_neon.cpp": [],
}
TEXT_UNITS = {HERE / "near_text.cpp": [], **{unit: flags for unit, flags in KV_UNITS.items() if unit.parent == SOURCES}}
PROCESSORS = {
    "max": ["neon_i8mm", "neon_dotprod", "neon", "scalar"],
    "neoverse-n1": ["neon_dotprod", "neon", "scalar"],
    "cortex-a57": ["neon", "scalar"],
}


def build(directory: Path, units: dict[Path, list[str]]) -> Path:
    for tool, package in ((COMPILER, "g++-aarch64-linux-gnu"), (EMULATOR, "qemu-user-static")):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian: apt install {package})")

    def compiled(unit: tuple[Path, list[str]]) -> str:
        source, flags = unit
        target = directory / f"{source.stem}.o"
        subprocess.run([COMPILER, *FLAGS, *flags, "-c", str(source), "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, units.items()))
    program = directory / "compare"
    subprocess.run([COMPILER, "-static", *objects, "-o", str(program)], check=True)
    return program


elsewhere = pytest.mark.skipif(
    platform.machine() in ("aarch64", "arm64"),
    reason="other tests of this folder run these kernels here",
)


@elsewhere
def test_every_arm64_processor_finds_its_instructions_and_computes_the_portable_bits(tmp_path: Path) -> None:
    program = build(tmp_path, UNITS)
    for processor, wanted in PROCESSORS.items():
        run = subprocess.run([EMULATOR, "-cpu", processor, str(program)], capture_output=True, text=True, check=False)
        assert (run.returncode, run.stdout.split("\n")[:-1]) == (0, wanted), processor


@elsewhere
def test_neon_packs_the_same_kv_and_attends_alike(tmp_path: Path) -> None:
    run = subprocess.run([EMULATOR, str(build(tmp_path, KV_UNITS))], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "")


@elsewhere
def test_neon_reads_sentences_alike(tmp_path: Path) -> None:
    run = subprocess.run([EMULATOR, str(build(tmp_path, TEXT_UNITS))], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "")
