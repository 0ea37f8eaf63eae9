"""What the figures say, beside what the paper says."""
