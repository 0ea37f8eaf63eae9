"""All that is written under outputs/, and W&B, which mirrors it."""
