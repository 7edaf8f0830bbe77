"""Evaluation: running systems on frozen examples, their metrics, checks and results."""
