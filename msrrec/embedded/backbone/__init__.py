"""The embedded backbone: a Llama of two million parameters that stands in for Llama-3-8B."""
