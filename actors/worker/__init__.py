"""The worker: executes leases. It owns values (weights, KV, sampler state); the scheduler owns allocation."""
