"""Files and vector stores as clients see them, in OpenAI's shapes."""
