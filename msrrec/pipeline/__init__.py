"""The stages in order: the demo and the sweep."""
