"""`russet serve` as a process: it ends when it is told to, and takes everything with it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import KV_BYTES


def serve(home: Path) -> tuple[subprocess.Popen[str], str]:
    """A running `russet serve`, and its base URL."""
    settings = {"home": home, "gateway.port": 0, "gateway.grpc_port": 0, "models.0.kv_memory_bytes": KV_BYTES}
    arguments = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-c", "from cluster.cli import main; main()", "serve", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"(http://[\d.:]+)/v1", line):
            return process, found[1]
    raise AssertionError(f"russet serve ended with {process.wait()}")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_all_its_children(home: Path, how: signal.Signals) -> None:
    process, url = serve(home)
    request = {"model": "auto", "prompt": "One, two,", "max_tokens": 4000, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=request, timeout=30) as response:
        next(line for line in response.iter_lines() if line.startswith("data: {"))
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
    assert process.wait(timeout=30) == 0
    assert not [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_killed_and_started_again_it_remembers(home: Path) -> None:
    process, url = serve(home)
    body = {
        "model": "auto",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 4,
        "russet": {"session_id": "s1"},
    }
    assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30).status_code == 200
    text = ""
    while 'russet_witness_written_total{service="memory"} 1.0' not in text:
        text = httpx.get(f"{url}/metrics").text
    process.kill()
    process.wait()
    again, url = serve(home)
    try:
        assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30).status_code == 200
    finally:
        again.send_signal(signal.SIGINT)
        assert again.wait(timeout=30) == 0
    left = [p for p in psutil.process_iter(["cmdline"]) if str(home) in " ".join(p.info["cmdline"] or [])]
    assert not left


def test_killed_while_it_writes_kv_it_restores_what_is_whole_and_answers_the_same(home: Path) -> None:
    process, url = serve(home)
    body = {
        "model": "auto",
        "prompt": "".join(f"Line {number} says {number * 7 % 101}. " for number in range(120)),
        "max_tokens": 16,
        "temperature": 0,
        "russet": {"session_id": "s1"},
    }
    first = httpx.post(f"{url}/v1/completions", json=body, timeout=120).json()
    assert first["usage"]["prompt_tokens"] > 1000
    saved = 0
    while not saved:
        found = re.search(r"^russet_kv_saved_total\{.*\} (\d+)", httpx.get(f"{url}/metrics").text, re.MULTILINE)
        saved = int(found[1]) if found else 0
    process.kill()
    process.wait()
    again, url = serve(home)
    try:
        second = httpx.post(f"{url}/v1/completions", json=body, timeout=120).json()
    finally:
        again.send_signal(signal.SIGINT)
        assert again.wait(timeout=30) == 0
    assert second["choices"][0]["text"] == first["choices"][0]["text"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= 16
