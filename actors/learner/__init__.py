"""The learner: receives what happened and how good it was, and keeps patterns and edges true to it."""
