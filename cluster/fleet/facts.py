"""What a machine tells of itself: run on each node as a program of its own, before anything is installed there.

It needs Python 3.9 and nothing else, and keeps nothing. It prints one line of JSON with the facts, and listens on a
free port, so that other nodes can try whether they reach it. Then it answers what comes on its standard input, a line
each: `clock` with its time in Unix seconds, `reach` and a JSON list of host:port with what became of each.
It ends with its input.
"""

import hashlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

CONNECT_S = 3.0
COMMAND_S = 15.0
PACKAGES = ("russet", "ray", "mlx", "grpcio", "numpy")
SECRETS = ("cluster.key", "ray.token")


def facts(asked):
    """Everything of this machine, for a request {"root", "home", "ports", "towards"}: where Russet is or
    shall be, its ports, and addresses of the others."""
    root, home = (os.path.expanduser(asked[name]) for name in ("root", "home"))
    return {
        "system": platform.system(),
        "release": platform.mac_ver()[0] or platform.release(),
        "machine": platform.machine(),
        "chip": chip(),
        "cores": os.cpu_count() or 0,
        "memory_bytes": memory_bytes(),
        "disk_free_bytes": shutil.disk_usage(existing(home)).free,
        "hostname": socket.gethostname(),
        "hostname_addresses": resolved(socket.gethostname()),
        "own_addresses": sorted({local_address(address) for address in asked["towards"]} - {""}),
        "python": platform.python_version(),
        "installed": installed(os.path.join(root, ".venv", "bin", "python")),
        "compiler": next((found for name in ("c++", "clang++", "g++") if (found := shutil.which(name))), ""),
        "secrets": {name: digest(os.path.join(home, name)) for name in SECRETS},
        "runs": runs(home),
        "ports_taken": [port for port in asked["ports"] if not is_free(port)],
        "wired_limit_mb": number(["sysctl", "-n", "iogpu.wired_limit_mb"]),
        "thunderbolt": thunderbolt(output(["system_profiler", "SPThunderboltDataType"])),
        "power": power(output(["pmset", "-g", "custom"])),
    }


def chip():
    """The processor's name as its system tells it."""
    if platform.system() == "Darwin":
        return output(["sysctl", "-n", "machdep.cpu.brand_string"]).strip()
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()


def memory_bytes():
    """Of the whole machine; 0 where it does not say."""
    if platform.system() == "Darwin":
        return number(["sysctl", "-n", "hw.memsize"]) or 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def existing(path):
    """The nearest directory above `path` that there is."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def resolved(name):
    """Addresses that a name stands for here."""
    try:
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
    except OSError:
        return []


def local_address(towards):
    """This machine's address on the way to another; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((towards, 9))
            return probe.getsockname()[0]
        except OSError:
            return ""


def installed(python):
    """Versions of what Russet's environment holds, with the Python in it; None where there is no environment."""
    if not os.access(python, os.X_OK):
        return None
    code = (
        "import json, platform\n"
        "from importlib.metadata import PackageNotFoundError, version\n"
        "found = {'python': platform.python_version()}\n"
        f"for name in {PACKAGES!r}:\n"
        "    try: found[name] = version(name)\n"
        "    except PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    told = output([python, "-c", code])
    return json.loads(told) if told else None


def digest(path):
    """The beginning of a secret file's SHA-256, which tells whether two are equal; empty where it is not."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read(1 << 16)).hexdigest()[:16]
    except OSError:
        return ""


def runs(home):
    """Whether `russet up` of this home runs here: what it wrote names a process that lives."""
    name = hashlib.sha256(os.path.realpath(home).encode()).hexdigest()[:8]
    path = os.path.join(tempfile.gettempdir(), f"russet-{os.getuid()}-{name}", "cluster.json")
    try:
        with open(path) as file:
            os.kill(json.load(file)["ray_pid"], 0)
        return True
    except (OSError, ValueError, KeyError):
        return False


def is_free(port):
    """Whether this machine could listen on a TCP port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            return True
        except OSError:
            return False


def thunderbolt(told):
    """The newest generation of Thunderbolt that `system_profiler SPThunderboltDataType` names; 0 for none."""
    generations = [3] if "Up to 40 Gb/s" in told else []
    generations += [number for number in (3, 4, 5) if f"Thunderbolt {number}" in told or f"USB{number}" in told]
    generations += [5] if "Up to 80 Gb/s" in told or "Up to 120 Gb/s" in told else []
    return max(generations, default=0)


def power(told):
    """Of what `pmset -g custom` tells: minutes until sleep (0 is never), and whether it starts after a power cut."""
    values = dict(line.split()[:2] for line in told.splitlines() if len(line.split()) >= 2)
    return {name: int(values[name]) for name in ("sleep", "autorestart") if values.get(name, "").isdigit()}


def output(command):
    """What a command prints; empty where it is not here, fails, or takes too long."""
    try:
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=COMMAND_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.decode(errors="replace") if ran.returncode == 0 else ""


def number(command):
    """The number that a command prints, or None."""
    told = output(command).strip()
    return int(told) if told.isdigit() else None


def reach(addresses):
    """For each host:port `open`, or the name of the error that connecting ended with."""
    return {address: connected(address) for address in addresses}


def connected(address):
    """Try one."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_S):
            return "open"
    except socket.timeout:  # noqa: UP041  (Python 3.9 keeps it apart from TimeoutError)
        return "timeout"
    except OSError as error:
        import errno

        return errno.errorcode.get(error.errno or 0, type(error).__name__)


def main():
    """The program."""
    asked = json.loads(sys.argv[1])
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen(64)
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        print(json.dumps(dict(facts(asked), port=listener.getsockname()[1])), flush=True)
        for line in sys.stdin:
            command, _, rest = line.strip().partition(" ")
            answer = reach(json.loads(rest)) if command == "reach" else time.time()
            print(json.dumps(answer), flush=True)


def accept(listener):
    """Let whoever connects go again."""
    while True:
        connection, _ = listener.accept()
        connection.close()


if __name__ == "__main__":
    main()
