"""Unix sockets: whether somebody listens behind a path."""

import contextlib
import socket


def answers(path: str) -> bool:
    """Whether a process listens on the unix socket `path`. A file that a killed process left behind does not."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            # Its backlog is full: it lives.
            return True
        except OSError:
            return False
        return True
