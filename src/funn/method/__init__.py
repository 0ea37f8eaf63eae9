"""The paper's method, section by section."""
