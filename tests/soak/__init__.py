"""A long run under load with processes killed at random: `make soak`."""
