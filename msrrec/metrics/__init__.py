"""Figures of results: pure functions of rankings, texts and marks."""
