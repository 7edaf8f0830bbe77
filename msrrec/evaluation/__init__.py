"""What the recommendations are worth: metrics, their intervals, and the report."""
