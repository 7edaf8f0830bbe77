"""Calls to OpenAI-compatible APIs, and the one reading of what those send back."""
