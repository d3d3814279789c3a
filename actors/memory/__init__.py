"""Memory: sessions, the witness log, policies, the graph and embeddings."""
