"""Metrics: pure functions of rankings, texts and marks."""
