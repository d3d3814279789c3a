"""One view of everything that runs: asked of every service, told as JSON, a page, and a terminal's picture."""
