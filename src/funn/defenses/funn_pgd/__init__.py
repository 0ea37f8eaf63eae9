"""FUNN's second phase against an attacker that searches for each image."""
