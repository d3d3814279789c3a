"""`russet up` and `down`: start Ray and every actor detached, say what is waited for, and leave nothing behind."""

import contextlib
import json
import logging
import os
import shutil
import socket
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
from cluster.fleet_plan import initial
from cluster.home import Home
from cluster.join import leave
from cluster.ray_process import (
    address_of,
    end,
    end_on_sigterm,
    free_port,
    holds_token,
    labels_of,
    memory_of,
    offered,
    ray_environment,
    same_process,
    session,
    start,
    wait_until,
)
from cluster.topology import Node

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
        return same_process(self.ray_pid, self.ray_started_s) is not None


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
    address = address_of(config.ray)
    initial(config, [here(config, address)])  # refuses before anything is started
    if certificate_of(config, "head") is not None:
        authority_of(home.home).create()
    end(_leftovers(home))
    for socket_file in home.run.glob("*.sock"):
        socket_file.unlink()
    # Each start of Ray leaves a session's logs here; the last one's are kept until now for whoever wants to read them.
    shutil.rmtree(home.run / "ray", ignore_errors=True)
    gateway = gateway.model_copy(
        update={"port": gateway.port or free_port(), "grpc_port": gateway.grpc_port or free_port()}
    )
    config = config.model_copy(update={"gateway": gateway})
    log.info("configuration: %s", config.model_dump_json())

    progress("Ray")
    gcs_port = config.ray.port or free_port()
    dashboard_port = config.ray.dashboard_port or free_port()
    end_on_sigterm()
    ports = {"port": gcs_port, "dashboard-port": dashboard_port, "ray-client-server-port": free_port()}
    # Then Ray starts the other nodes of the file by SSH, and again those that it hears nothing of.
    more = {"autoscaling-config": config.ray.autoscaling_config} if config.ray.autoscaling_config else {}
    head = start(home, "ray.log", {"head": True} | ports | more | offered(config.ray, home, address))
    try:
        state = ClusterState(
            ray_pid=head.pid,
            ray_started_s=psutil.Process(head.pid).create_time(),
            ray_address=f"{address}:{gcs_port}",
            dashboard=f"http://127.0.0.1:{dashboard_port}",
            http=f"{gateway.scheme}://{gateway.host}:{gateway.port}",
            grpc=f"{gateway.host}:{gateway.grpc_port}",
            started_s=time.time(),
        )
        # Written before anything is waited for: if this process is killed, `russet down` still finds what it started.
        home.state_file.write_text(json.dumps(asdict(state)))
        wait_until(lambda: _answers(address, gcs_port), head, home.logs / "ray.log", config.ray.start_timeout_s)
        _deploy(config, state.ray_address, ray_environment(home), progress)
    except BaseException:
        end(session(head.pid))
        home.state_file.unlink(missing_ok=True)
        raise
    return state


def stay(home: Home, state: ClusterState) -> int:
    """Wait until the cluster ends by itself (1), or this process is told to end (0); stop what is left of it."""
    try:
        end_on_sigterm()
        if (head := same_process(state.ray_pid, state.ray_started_s)) is not None:
            head.wait()
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        down(home, lambda what: None)


def down(home: Home, progress: Callable[[str], None]) -> bool:
    """Stop everything: actors first, so that memory flushes and streams end, then Ray. False where nothing ran.

    On a machine that only joined a cluster that is the node alone; the cluster goes on without it.
    """
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
    left = leave(home)
    family = _leftovers(home)
    end(family)
    home.state_file.unlink(missing_ok=True)
    return left or bool(family)


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


def here(config: Config, name: str) -> Node:
    """This machine, where nothing runs yet."""
    return Node("here", cores(), min(memory_of(config.ray), available_memory()), name, labels=labels_of(config.ray))


def _answers(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


def _deploy(config: Config, address: str, environment: dict[str, str], progress: Callable[[str], None]) -> None:
    deadline = time.monotonic() + config.ray.start_timeout_s
    with connected(address, environment):
        from cluster import ray_deploy

        end_on_sigterm()
        progress("the actors")
        names = ray_deploy.deploy(config, initial(config, [ray_deploy.head()]))
        while waiting := ray_deploy.waiting_for(names):
            failed = {name: said for name, said in waiting.items() if "DEPLOY_FAILED" in said}
            if failed or time.monotonic() > deadline:
                reasons = "; ".join(f"{name}: {said}" for name, said in (failed or waiting).items())
                raise Unavailable(f"not ready: {reasons}")
            progress(", ".join(sorted(waiting)))
            time.sleep(0.2)


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
    family = session(state.ray_pid)
    if state.alive:
        return family
    # The number may be another session's by now: ours are those that were given our token.
    return [process for process in family if holds_token(process, home)]


def require_running(home: Home) -> ClusterState:
    """The running cluster, or InvalidArgument that says how to start one."""
    state = read_state(home)
    if state is None:
        raise InvalidArgument(f"no Russet runs for {home.home}; start it with `russet up` (or `make up`)")
    return state
