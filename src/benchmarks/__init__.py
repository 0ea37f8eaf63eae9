"""Ours against other code, in one run each."""
