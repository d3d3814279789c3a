"""What a passage, a range of a file's text, is called in the graph: by the gateway that saw it used, and by memory."""

from protos.gen import documents_pb2


def node_of(chunk: documents_pb2.Chunk) -> str:
    """The same in every vector store that cuts the file like this; another text has another name."""
    return f"passage:{chunk.file_id}:{chunk.start}-{chunk.end}"
