"""MagNet (Meng & Chen 2017)."""
