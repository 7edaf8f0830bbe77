"""Comparing any systems on the same frozen examples, with one registry of all systems."""
