"""The learned router: features of a request, a gated recurrent cell over a session's turns, and what it decides."""
