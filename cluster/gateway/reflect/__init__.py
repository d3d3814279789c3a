"""Answers that are checked before they are given, and made again where they do not pass."""
