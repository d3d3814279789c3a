"""What becomes of a replica, rule by rule."""

import pytest

from cluster.fleet_record import ReplicaRecord
from cluster.reconcile import App, Seen, Turn, turn

ERROR = "ray::Replica.__init__()\nactors.base.errors.InvalidArgument: the file is truncated"


def replica(state: str, *, served: bool = False) -> ReplicaRecord:
    return ReplicaRecord(index=0, state=state, node="n1", node_name="mini-1", application="app", served=served)  # type: ignore


def seen(status: str | None, said: str = "", *, nodes: str = "n1", router: bool | None = True) -> Seen:
    apps = {} if status is None else {"app": App(status, said)}
    return Seen(apps, frozenset({nodes}), None if router is None else {"m-0": router})


@pytest.mark.parametrize(
    ("record", "look", "becomes"),
    [
        (replica("loading"), seen("DEPLOYING"), None),
        (replica("loading"), seen("RUNNING", router=False), None),
        (replica("loading"), seen("RUNNING", router=None), None),
        (replica("loading"), seen("RUNNING"), Turn("ready")),
        # A controller ended between writing down what is to be and doing it.
        (replica("loading"), seen(None), Turn("loading", "", "deploy")),
        (replica("loading"), seen("DEPLOYING", ERROR), Turn("failed", "the file is truncated", "delete")),
        (replica("loading"), seen("DEPLOY_FAILED", "no memory"), Turn("failed", "no memory", "delete")),
        # What was ready once is started until it is again.
        (replica("loading", served=True), seen("DEPLOYING", ERROR), None),
        (replica("ready"), seen("UNHEALTHY"), Turn("loading", "its process ended")),
        (replica("ready"), seen("RUNNING", router=False), Turn("loading", "it takes no requests")),
        (replica("ready"), seen("RUNNING", router=None), None),
        (replica("ready"), seen("RUNNING", nodes="n2"), Turn("waiting", "its node mini-1 is gone", "delete")),
        (replica("draining"), seen("RUNNING", router=False), None),
        (replica("draining"), seen(None), Turn("gone")),
        (replica("draining"), seen("UNHEALTHY", nodes="n2"), Turn("gone", do="delete")),
        (replica("failed"), seen(None, nodes="n2"), None),
        (replica("waiting"), seen(None, nodes="n2"), None),
    ],
)
def test_turns(record: ReplicaRecord, look: Seen, becomes: Turn | None) -> None:
    assert turn(record, "m-0", look) == becomes
