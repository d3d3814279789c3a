"""Tools that the server itself runs: where they come from, how a call is checked, run, bounded and remembered.

Nothing here knows of chats; cluster.gateway.tool_loop feeds results back to the model.
"""
