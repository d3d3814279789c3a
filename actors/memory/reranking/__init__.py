"""Passages in the order that usage suggests: similarity, and what answered questions like this one."""
