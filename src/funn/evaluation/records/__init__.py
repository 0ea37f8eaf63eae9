"""A row for each image, and the figures that follow from the rows."""
