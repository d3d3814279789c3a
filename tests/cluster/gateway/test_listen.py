"""The gateway's listening socket."""

import socket

from cluster.gateway.http import listen


def test_accepted_connections_send_small_writes_at_once() -> None:
    """Without TCP_NODELAY a first token waits 40 ms for the acknowledgement of the headers."""
    with listen("127.0.0.1", 0) as listener:
        listener.setblocking(True)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
