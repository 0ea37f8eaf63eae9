"""Attacks on single pixels."""
