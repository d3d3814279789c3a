"""A fleet in simulated time, to see what a way of choosing replicas does to waits before there is such a fleet."""
