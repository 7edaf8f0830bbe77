"""The embedded backbone: a Llama of 2.6 million parameters that stands in for Llama-3-8B."""
