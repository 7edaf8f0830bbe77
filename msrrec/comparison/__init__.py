"""Any systems on the same frozen examples, one registry of all of them."""
