"""The reasoning chain: all prompts that models see, and the parsers of their outputs."""
