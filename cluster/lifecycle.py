"""`russet up` and `down`: start Ray and every actor detached, say what is waited for, and leave nothing behind."""

import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from actors.base.errors import Conflict, InvalidArgument, Unavailable
from actors.worker.slab import available_memory
from cluster.capacity import cores
from cluster.certificates import authority_of, certificate_of
from cluster.config import Config, load
from cluster.home import Home
from cluster.ray_models import initial
from cluster.topology import Node

STOP_TIMEOUT_S = 20.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusterState:
    """What `russet up` leaves for the other commands. Times in Unix seconds."""

    ray_pid: int
    ray_started_s: float
    ray_address: str
    dashboard: str
    http: str
    grpc: str
    started_s: float

    @property
    def alive(self) -> bool:
        """Whether the Ray head that this describes still runs (and its pid was not taken by another)."""
        return _same_process(self.ray_pid, self.ray_started_s) is not None


def read_state(home: Home) -> ClusterState | None:
    """The running cluster of this home, or None."""
    state = _written_state(home)
    return state if state is not None and state.alive else None


def running_url(file: Path | None) -> str:
    """Base URL of the cluster that runs for the configuration in `file`, or where it would be."""
    config = load(file)
    state = read_state(Home(config.home))
    return state.http if state else f"{config.gateway.scheme}://{config.gateway.host}:{config.gateway.port}"


def up(config: Config, progress: Callable[[str], None]) -> ClusterState:
    """Start everything; returns when every actor is ready. `progress` hears what is being waited for.

    Raises Conflict where it runs already or a port is taken, Unavailable where an actor is not ready in time. On
    any failure what was started is stopped again.
    """
    home = Home(config.home).create()
    if (running := read_state(home)) is not None:
        raise Conflict(f"Russet already runs here (pid {running.ray_pid}, {running.http}); `russet down` stops it")
    gateway = config.gateway
    check_port(gateway.host, gateway.port, "--port or gateway.port")
    check_port(gateway.host, gateway.grpc_port, "--grpc-port or gateway.grpc_port")
    check_port("127.0.0.1", config.ray.dashboard_port, "ray.dashboard_port")
    initial(config, [Node("head", cores(), available_memory(), "127.0.0.1")])  # refuses before anything is started
    if certificate_of(config, "head") is not None:
        authority_of(home.home).create()
    _end(_leftovers(home))
    for socket_file in home.run.glob("*.sock"):
        socket_file.unlink()
    # Each start of Ray leaves a session's logs here; the last one's are kept until now for whoever wants to read them.
    shutil.rmtree(home.run / "ray", ignore_errors=True)
    gateway = gateway.model_copy(
        update={"port": gateway.port or free_port(), "grpc_port": gateway.grpc_port or free_port()}
    )
    config = config.model_copy(update={"gateway": gateway})

    log.info("configuration: %s", config.model_dump_json())

    environment = ray_environment(home)
    progress("Ray")
    gcs_port = config.ray.port or free_port()
    dashboard_port = config.ray.dashboard_port or free_port()
    _end_on_sigterm()
    head = _start_head(config, home, gcs_port, dashboard_port, environment)
    try:
        state = ClusterState(
            ray_pid=head.pid,
            ray_started_s=psutil.Process(head.pid).create_time(),
            ray_address=f"127.0.0.1:{gcs_port}",
            dashboard=f"http://127.0.0.1:{dashboard_port}",
            http=f"{gateway.scheme}://{gateway.host}:{gateway.port}",
            grpc=f"{gateway.host}:{gateway.grpc_port}",
            started_s=time.time(),
        )
        # Written before anything is waited for: if this process is killed, `russet down` still finds what it started.
        home.state_file.write_text(json.dumps(asdict(state)))
        _wait_for_port(gcs_port, head, home, config.ray.start_timeout_s)
        _deploy(config, state.ray_address, environment, progress)
    except BaseException:
        _end(_session(head.pid))
        home.state_file.unlink(missing_ok=True)
        raise
    return state


def down(home: Home, progress: Callable[[str], None]) -> bool:
    """Stop everything: actors first, so that memory flushes and streams end, then Ray. False where nothing ran."""
    state = read_state(home)
    if state is not None:
        progress("actors")
        try:
            with connected(state.ray_address, ray_environment(home)):
                from cluster import ray_deploy

                ray_deploy.stop()
        except Unavailable as error:
            progress(f"what is left: {error.message}")
    progress("Ray")
    family = _leftovers(home)
    _end(family)
    home.state_file.unlink(missing_ok=True)
    return bool(family)


def check_port(host: str, port: int, setting: str) -> None:
    """Raise Conflict naming the port and the setting that changes it where `port` is taken. 0 is always free."""
    if port == 0:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Conflict(f"cannot listen on {host}:{port}: {error.strerror}; choose another with {setting}") from None


def free_port() -> int:
    """A TCP port that was free a moment ago.

    Drawn from between the ports that Ray gives its workers (below 20,000) and those that systems give outgoing
    connections (from 32,768), so that only another listener could take it before it is used.
    """
    while True:
        port = secrets.choice(range(20_000, 32_768))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def ray_environment(home: Home) -> dict[str, str]:
    """Environment of every Ray process of this cluster; its token is made once and readable by the owner only."""
    token_file = home.home / "ray.token"
    if not token_file.exists():
        descriptor = os.open(token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        "RAY_DEDUP_LOGS": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
    }


@contextlib.contextmanager
def connected(address: str, environment: dict[str, str]) -> Iterator[None]:
    """This process as a driver of the cluster at `address`."""
    os.environ.update(environment)
    import ray

    try:
        ray.init(
            address=address,
            namespace="russet",
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError) as error:
        raise Unavailable(f"Ray at {address} does not answer ({error}); `russet down` ends it") from error
    import ray.serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _start_head(
    config: Config, home: Home, gcs_port: int, dashboard_port: int, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    options = {
        "node-ip-address": "127.0.0.1",
        "port": gcs_port,
        "dashboard-port": dashboard_port,
        "ray-client-server-port": free_port(),
        "metrics-export-port": config.ray.metrics_port or free_port(),
        "temp-dir": home.run / "ray",
        "object-store-memory": config.ray.object_store_bytes,
        "num-cpus": cores(),
        "memory": available_memory(),
    }
    command += [f"--{name}={value}" for name, value in options.items()]
    with (home.logs / "ray.log").open("wb") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=os.environ | environment,
            start_new_session=True,
        )


def _wait_for_port(port: int, head: subprocess.Popen[bytes], home: Home, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if head.poll() is not None:
            raise Unavailable(f"Ray ended with code {head.returncode}: {_tail(home.logs / 'ray.log')}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise Unavailable(f"Ray did not listen on port {port} within {timeout_s:.0f} s; see {home.logs / 'ray.log'}")


def _deploy(config: Config, address: str, environment: dict[str, str], progress: Callable[[str], None]) -> None:
    deadline = time.monotonic() + config.ray.start_timeout_s
    with connected(address, environment):
        from cluster import ray_deploy

        _end_on_sigterm()
        progress("the actors")
        names = ray_deploy.deploy(config, initial(config, [ray_deploy.head()]))
        while waiting := ray_deploy.waiting_for(names):
            failed = {name: said for name, said in waiting.items() if "DEPLOY_FAILED" in said}
            if failed or time.monotonic() > deadline:
                reasons = "; ".join(f"{name}: {said}" for name, said in (failed or waiting).items())
                raise Unavailable(f"not ready: {reasons}")
            progress(", ".join(sorted(waiting)))
            time.sleep(0.2)


def _same_process(pid: int, started_s: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        return process if abs(process.create_time() - started_s) < 1 and process.status() != "zombie" else None
    except psutil.NoSuchProcess:
        return None


def _end_on_sigterm() -> None:
    """SIGTERM ends `up` as Ctrl-C does, with all it started. Said again after ray.init, which takes the signal over."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _written_state(home: Home) -> ClusterState | None:
    try:
        return ClusterState(**json.loads(home.state_file.read_text()))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None


def _leftovers(home: Home) -> list[psutil.Process]:
    """What the last `up` started and still runs, be its head alive or not."""
    state = _written_state(home)
    if state is None:
        return []
    family = _session(state.ray_pid)
    if state.alive:
        return family
    # The number may be another session's by now: ours are those that were given our token.
    return [process for process in family if _holds_token(process, home)]


def _holds_token(process: psutil.Process, home: Home) -> bool:
    try:
        return process.environ().get("RAY_AUTH_TOKEN_PATH") == str(home.home / "ray.token")
    except psutil.Error:
        return False  # gone, or another user's


def _session(leader: int) -> list[psutil.Process]:
    """Every process of the session that `leader` began: Ray's own, the actors, theirs, and orphans among them."""
    family = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == leader:
                family.append(process)
    return family


def _end(family: list[psutil.Process]) -> None:
    """Ask the session's leader to end, which ends the others; kill what is left of it after STOP_TIMEOUT_S."""
    if not family:
        return
    leader = os.getsid(family[0].pid)
    for process in family:
        if process.pid == leader:
            process.terminate()
    psutil.wait_procs(family, timeout=STOP_TIMEOUT_S if any(process.pid == leader for process in family) else 0)
    alive = _session(leader)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def _tail(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"nothing was logged in {path}"


def require_running(home: Home) -> ClusterState:
    """The running cluster, or InvalidArgument that says how to start one."""
    state = read_state(home)
    if state is None:
        raise InvalidArgument(f"no Russet runs for {home.home}; start it with `russet up` (or `make up`)")
    return state
