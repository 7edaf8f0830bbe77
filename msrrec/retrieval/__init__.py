"""Retrieval: finding candidates for a history in a whole catalogue, without a candidate list.

``Index`` holds a catalogue and several retrievers, see docs/retrieval.md.
"""
