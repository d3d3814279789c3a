"""The router: knows the replicas, chooses one for each request, and says why."""
