"""Generating both sides, scoring them and fusing them into one recommendation."""
