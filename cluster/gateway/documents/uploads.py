"""A file as clients upload it: multipart/form-data with the fields `file` and `purpose`."""

from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from actors.base.errors import InvalidArgument
from cluster.gateway.errors import UnknownParameter, UnsupportedParameter
from protos.gen import documents_pb2

FIELD_BYTES = 1024


async def upload_of(request: Request, body: bytes) -> documents_pb2.PutFileRequest:
    """The file in a body. Raises InvalidArgument naming the field that is wrong."""
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        raise InvalidArgument(f"Content-Type is {kind[:80]!r}; accepted is multipart/form-data", param="Content-Type")

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, stream(), max_files=1, max_fields=8, max_part_size=FIELD_BYTES)
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError, KeyError) as error:
        raise InvalidArgument(f"the body is no multipart/form-data: {error}") from None
    try:
        for name in form:
            if name.startswith("expires_after"):
                raise UnsupportedParameter("expires_after is not supported; leave it out", param="expires_after")
            if name not in ("file", "purpose"):
                raise UnknownParameter(f"unknown parameter: {name[:80]}", param=name[:80])
        file, purpose = form.get("file"), form.get("purpose", "")
        if not isinstance(file, UploadFile):
            raise InvalidArgument("file is missing; accepted is a part with a filename", param="file")
        if not isinstance(purpose, str):
            raise InvalidArgument("purpose is a file; accepted is a text", param="purpose")
        return documents_pb2.PutFileRequest(name=file.filename or "", content=await file.read(), purpose=purpose)
    finally:
        await form.close()
