"""Text generators: vLLM, a client for OpenAI-compatible APIs, and constrained answers."""
