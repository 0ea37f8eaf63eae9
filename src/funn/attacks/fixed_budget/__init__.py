"""Attacks that stay within a given eps."""
