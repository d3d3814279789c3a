"""The gateway: requests from outside, over HTTP in OpenAI's shapes and over gRPC, become streams of text."""
