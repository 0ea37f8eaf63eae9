"""Images and their labels, in memory."""
