"""The ring of trajectories: the newest N, found by id, dropping the oldest with a count."""

from collections import OrderedDict
from itertools import islice

from protos.gen import learner_pb2


class Ring:
    """Newest `capacity` trajectories in order of arrival. A trajectory recorded again (a retry) replaces itself."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.recorded = 0
        self.dropped = 0
        self._held: OrderedDict[str, learner_pb2.Trajectory] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def add(self, trajectory: learner_pb2.Trajectory) -> bool:
        """Hold a copy of a trajectory; False where its id was held already. Feedback it got meanwhile stays."""
        held = self._held.get(trajectory.id)
        copy = learner_pb2.Trajectory()
        copy.CopyFrom(trajectory)
        if held is not None:
            for name in ("rating", "outcome", "correction", "label"):
                if _told(held, name) and not _told(copy, name):
                    setattr(copy, name, getattr(held, name))
        self._held[copy.id] = copy
        if held is not None:
            return False
        self.recorded += 1
        if len(self._held) > self.capacity:
            self._held.popitem(last=False)
            self.dropped += 1
        return True

    def get(self, trajectory_id: str) -> learner_pb2.Trajectory | None:
        """The trajectory, while it is held."""
        return self._held.get(trajectory_id)

    def newest(self, limit: int) -> list[learner_pb2.Trajectory]:
        """Up to `limit` trajectories, newest first."""
        return list(islice(reversed(self._held.values()), limit))


def _told(trajectory: learner_pb2.Trajectory, name: str) -> bool:
    return trajectory.HasField("rating") if name == "rating" else bool(getattr(trajectory, name))
