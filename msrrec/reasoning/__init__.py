"""The reasoning chain: every prompt that any model sees, and the parser of what comes back."""
