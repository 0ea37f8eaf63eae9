"""Attack a classifier, and tell the truth about it."""
