"""A controller in another process: what answers there, and the Controller that asks it."""

from typing import Any, Protocol

from cluster.controller import Controller
from protos.gen import control_pb2, control_pb2_grpc, inference_pb2


class Planner(Controller, Protocol):
    """A controller that decides between nodes."""

    async def plan(self) -> control_pb2.PlanReply:
        """Every node and every replica's place."""
        ...


class ControlService(control_pb2_grpc.ControlServicer):
    """The Control service over a controller."""

    def __init__(self, controller: Planner) -> None:
        self._controller = controller

    async def ListServed(self, request: inference_pb2.ListServedRequest, context: Any) -> inference_pb2.ListServedReply:
        """Every model with its replicas."""
        return inference_pb2.ListServedReply(models=await self._controller.listed())

    async def LoadModel(self, request: inference_pb2.LoadModelRequest, context: Any) -> inference_pb2.ServedModel:
        """Begin to load one."""
        return await self._controller.load(request)

    async def ScaleModel(self, request: inference_pb2.ScaleModelRequest, context: Any) -> inference_pb2.ServedModel:
        """Give it another number of replicas."""
        return await self._controller.scale(request.id, request.replicas)

    async def UnloadModel(self, request: inference_pb2.UnloadModelRequest, context: Any) -> inference_pb2.ServedModel:
        """Begin to unload it."""
        return await self._controller.unload(request.id, request.timeout_s)

    async def Plan(self, request: control_pb2.PlanRequest, context: Any) -> control_pb2.PlanReply:
        """Every node and every replica's place."""
        return await self._controller.plan()


class RemoteController:
    """A Controller (see there) behind a stub. Where nobody answers there, each method raises Unreachable."""

    def __init__(self, stub: control_pb2_grpc.ControlStub) -> None:
        self._stub = stub

    async def listed(self) -> list[inference_pb2.ServedModel]:
        """Every model with its replicas."""
        return list((await self._stub.ListServed(inference_pb2.ListServedRequest())).models)

    async def load(self, request: inference_pb2.LoadModelRequest) -> inference_pb2.ServedModel:
        """Begin to load a model."""
        return await self._stub.LoadModel(request)

    async def scale(self, name: str, replicas: int) -> inference_pb2.ServedModel:
        """Begin to give it another number of replicas."""
        return await self._stub.ScaleModel(inference_pb2.ScaleModelRequest(id=name, replicas=replicas))

    async def unload(self, name: str, timeout_s: float) -> inference_pb2.ServedModel:
        """Begin to unload it."""
        return await self._stub.UnloadModel(inference_pb2.UnloadModelRequest(id=name, timeout_s=timeout_s))
