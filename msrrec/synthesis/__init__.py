"""Synthesis of reasoning paths: calls to teachers, the journal of completions, and pruning."""
