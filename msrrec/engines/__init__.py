"""What generates text: vLLM, an OpenAI-compatible client, and the offline teacher."""
