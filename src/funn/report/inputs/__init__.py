"""The paper's figures, and ours as they lie on disk."""
