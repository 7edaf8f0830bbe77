"""What to offer every customer next: candidates from a whole catalogue, chains, ranked items."""
