"""Reasoning-enhanced fine-tuning: examples, packing, the weighted loss, the loop and the export."""
