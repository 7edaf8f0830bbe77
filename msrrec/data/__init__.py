"""From raw purchases to a frozen dataset."""
