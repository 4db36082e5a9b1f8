"""A server that speaks Qdrant's gRPC on localhost, with qdrant-client's local mode behind it.

It stands in for the real server where none can run: what travels over the wire, keys, refused and repeated requests, aliases and
the lease are real; search, durability, indexing and speed are not, and neither is anything that only Qdrant's engine does.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as proto
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

NEVER_SET_KB = 20_000


class Faults(grpc.ServerInterceptor):
    """Refuses what lacks the key, and fails the next requests of a method as a test says."""

    def __init__(self, key: str | None) -> None:
        self.key = key
        self.calls: Counter[str] = Counter()
        self.failing: dict[str, list[grpc.StatusCode]] = {}
        self.says = "not now"
        self.losing: list[str] = []  # methods whose next answer gets lost, after the work was done
        # What else a method meets: a code instead of the work, or "lost" after it.
        self.choose: Callable[[str], grpc.StatusCode | str | None] = lambda _method: None

    def intercept_service(self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails) -> Any:
        method = details.method.rpartition("/")[2]
        self.calls[method] += 1
        keys = [value for name, value in details.invocation_metadata if name == "api-key"]
        if self.key and method != "HealthCheck" and keys != [self.key]:
            return _failing(grpc.StatusCode.UNAUTHENTICATED, "Must provide an API key")
        if self.failing.get(method):
            return _failing(self.failing[method].pop(0), self.says)
        met = self.choose(method)
        if isinstance(met, grpc.StatusCode):
            return _failing(met, self.says)
        if met == "lost" or method in self.losing:
            self.losing = [one for one in self.losing if one != method]
            return _losing(continuation(details))
        return continuation(details)


def _prefetch(message: Any) -> models.Prefetch:
    """A first step as local mode takes it, which ignores compressed vectors and says so."""
    return GrpcToRest.convert_prefetch_query(message).model_copy(update={"params": None})


def _losing(handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
    def answer(request: Any, context: grpc.ServicerContext) -> None:
        handler.unary_unary(request, context)
        context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")

    return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


def _failing(code: grpc.StatusCode, text: str) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(lambda request, context: context.abort(code, text))


class StandIn(proto.QdrantServicer, proto.CollectionsServicer, proto.PointsServicer):
    """The few methods that the store uses."""

    def __init__(self, version: str) -> None:
        self.client = QdrantClient(":memory:")
        self.version = version
        self.lock = threading.Lock()
        self.thresholds: dict[str, int] = {}
        self.quantized: dict[str, Any] = {}  # local mode forgets it
        self.queries: list[Any] = []
        self.indexed: list[tuple[str, str]] = []
        self.statuses: list[int] = []  # what the next writes answer, instead of "completed"
        self.largest_request = 0
        self.strict: dict[str, Any] = {}  # the strict mode of all collections, told but not enforced
        self.largest: dict[str, int] = {}  # how much was asked for at once: points, records, values of a condition

    def HealthCheck(self, request: Any, context: Any) -> Any:
        return proto.HealthCheckReply(title="stand-in", version=self.version)

    def Create(self, request: Any, context: Any) -> Any:
        vectors = GrpcToRest.convert_vectors_config(request.vectors_config) if request.HasField("vectors_config") else None
        metadata = GrpcToRest.convert_payload(request.metadata)
        with self.answering(context):
            self.client.create_collection(request.collection_name, vectors, metadata=metadata)
            if request.HasField("quantization_config"):
                self.quantized[request.collection_name] = request.quantization_config
        return proto.CollectionOperationResponse(result=True)

    def Update(self, request: Any, context: Any) -> Any:
        with self.answering(context):
            name = self.client.get_aliases()
            aliases = {one.alias_name: one.collection_name for one in name.aliases}
            physical = aliases.get(request.collection_name, request.collection_name)
            if request.HasField("optimizers_config"):
                self.thresholds[physical] = request.optimizers_config.indexing_threshold
            self.client.update_collection(physical, metadata=GrpcToRest.convert_payload(request.metadata))
        return proto.CollectionOperationResponse(result=True)

    def Delete(self, request: Any, context: Any) -> Any:
        if isinstance(request, proto.DeletePoints):
            self._note_values(request.points.filter)
            with self.answering(context):
                selector = GrpcToRest.convert_points_selector(request.points)
                self.client.delete(request.collection_name, selector)
            return self.done()
        with self.answering(context):
            self.client.delete_collection(request.collection_name)
        return proto.CollectionOperationResponse(result=True)

    def Get(self, request: Any, context: Any) -> Any:
        if isinstance(request, proto.GetPoints):
            ids = [GrpcToRest.convert_point_id(one) for one in request.ids]
            with self.answering(context):
                fields = GrpcToRest.convert_with_payload_interface(request.with_payload)
                vectors = GrpcToRest.convert_with_vectors_selector(request.with_vectors)
                found = self.client.retrieve(request.collection_name, ids, with_payload=fields, with_vectors=vectors)
            return proto.GetResponse(result=[RestToGrpc.convert_record(one) for one in found])
        with self.answering(context):
            info = RestToGrpc.convert_collection_info(self.client.get_collection(request.collection_name))
            aliases = {one.alias_name: one.collection_name for one in self.client.get_aliases().aliases}
            physical = aliases.get(request.collection_name, request.collection_name)
            info.config.optimizer_config.indexing_threshold = self.thresholds.get(request.collection_name, NEVER_SET_KB)
            if physical in self.quantized:
                info.config.quantization_config.CopyFrom(self.quantized[physical])
            if self.strict:
                info.config.strict_mode_config.CopyFrom(proto.StrictModeConfig(**self.strict))
        return proto.GetCollectionInfoResponse(result=info)

    def List(self, request: Any, context: Any) -> Any:
        with self.answering(context):
            names = [one.name for one in self.client.get_collections().collections]
        return proto.ListCollectionsResponse(collections=[proto.CollectionDescription(name=name) for name in names])

    def ListAliases(self, request: Any, context: Any) -> Any:
        with self.answering(context):
            aliases = [RestToGrpc.convert_alias_description(one) for one in self.client.get_aliases().aliases]
        return proto.ListAliasesResponse(aliases=aliases)

    def UpdateAliases(self, request: Any, context: Any) -> Any:
        with self.answering(context):
            self.client.update_collection_aliases([GrpcToRest.convert_alias_operations(one) for one in request.actions])
        return proto.CollectionOperationResponse(result=True)

    def Upsert(self, request: Any, context: Any) -> Any:
        self.largest_request = max(self.largest_request, request.ByteSize())
        self._note("Upsert", len(request.points))
        with self.answering(context):
            self.client.upsert(request.collection_name, [GrpcToRest.convert_point_struct(one) for one in request.points])
        return self.done()

    def UpdateBatch(self, request: Any, context: Any) -> Any:
        with self.answering(context):
            operations = [GrpcToRest.convert_points_update_operation(one) for one in request.operations]
            self.client.batch_update_points(request.collection_name, operations)
        return proto.UpdateBatchResponse(result=[self.done().result for _ in operations])

    def UpdateVectors(self, request: Any, context: Any) -> Any:
        with self.answering(context):
            self.client.update_vectors(request.collection_name, [GrpcToRest.convert_point_vectors(one) for one in request.points])
        return self.done()

    def CreateVectorName(self, request: Any, context: Any) -> Any:
        if self.version < "1.18":
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found")
        dense = models.DenseVectorConfig(size=request.dense_config.size, distance=models.Distance.COSINE)
        with self.answering(context):
            config = models.DenseVectorNameConfig(dense=dense)
            self.client.create_vector_name(request.collection_name, request.vector_name, config)
        return self.done()

    def DeleteVectorName(self, request: Any, context: Any) -> Any:
        with self.answering(context):
            self.client.delete_vector_name(request.collection_name, request.vector_name)
        return self.done()

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        self.indexed.append((request.collection_name, request.field_name))
        return self.done()

    def Scroll(self, request: Any, context: Any) -> Any:
        self._note("Scroll", request.limit)
        self._note_values(request.filter)
        with self.answering(context):
            records, offset = self.client.scroll(
                request.collection_name,
                scroll_filter=GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None,
                limit=request.limit,
                offset=GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
                with_payload=GrpcToRest.convert_with_payload_interface(request.with_payload),
                with_vectors=GrpcToRest.convert_with_vectors_selector(request.with_vectors),
            )
        following = None if offset is None else RestToGrpc.convert_extended_point_id(offset)
        return proto.ScrollResponse(result=[RestToGrpc.convert_record(one) for one in records], next_page_offset=following)

    def Query(self, request: Any, context: Any) -> Any:
        self.queries.append(request)
        with self.answering(context):
            found = self.client.query_points(
                request.collection_name,
                query=GrpcToRest.convert_query(request.query),
                prefetch=[_prefetch(one) for one in request.prefetch] or None,
                using=request.using or None,
                query_filter=GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None,
                limit=request.limit,
                with_payload=GrpcToRest.convert_with_payload_interface(request.with_payload),
                with_vectors=GrpcToRest.convert_with_vectors_selector(request.with_vectors),
            )
        return proto.QueryResponse(result=[RestToGrpc.convert_scored_point(one) for one in found.points])

    def Count(self, request: Any, context: Any) -> Any:
        with self.answering(context):
            return proto.CountResponse(result=proto.CountResult(count=self.client.count(request.collection_name).count))

    def _note(self, what: str, count: int) -> None:
        self.largest[what] = max(self.largest.get(what, 0), count)

    def _note_values(self, where: Any) -> None:
        for one in where.must:
            self._note("values", max(len(one.has_id.has_id), len(one.field.match.keywords.strings)))

    def done(self) -> Any:
        status = self.statuses.pop(0) if self.statuses else proto.UpdateStatus.Completed
        return proto.PointsOperationResponse(result=proto.UpdateResult(operation_id=0, status=status))

    @contextmanager
    def answering(self, context: Any) -> Iterator[None]:
        with self.lock:
            try:
                yield
            except ValueError as error:
                codes = {"not found": grpc.StatusCode.NOT_FOUND, "already exists": grpc.StatusCode.ALREADY_EXISTS}
                code = next((code for text, code in codes.items() if text in str(error)), grpc.StatusCode.INVALID_ARGUMENT)
                context.abort(code, str(error))


class RunningServer:
    """The stand-in on a port of this machine."""

    def __init__(self, *, key: str | None = None, version: str = "1.19.0", largest_bytes: int = 2**22) -> None:
        self.faults = Faults(key)
        self.stand_in = StandIn(version)
        options = [("grpc.max_receive_message_length", largest_bytes)]
        self._server = grpc.server(ThreadPoolExecutor(8), interceptors=[self.faults], options=options)
        proto.add_QdrantServicer_to_server(self.stand_in, self._server)
        proto.add_CollectionsServicer_to_server(self.stand_in, self._server)
        proto.add_PointsServicer_to_server(self.stand_in, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def url(self, name: str = "handbook") -> str:
        return f"qdrant://127.0.0.1:{self.port}/{name}"

    def stop(self) -> None:
        self._server.stop(None).wait()
        self.stand_in.client.close()
