"""Tool calls: what may be asked, how each family of models writes calls, and how its text becomes calls again.

    tools ── check ──> template (the model's own, or instructions) ──> prompt
      └── grammar (what the model may write) ──> worker
    tokens ──> text ──> parser of the model's format ──> text, and deltas of calls

A format is one file: what its calls look like, its parser, its grammar. What is no valid call stays text.
"""
