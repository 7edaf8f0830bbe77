"""Teacher calls, the journal of every answer, and pruning."""
