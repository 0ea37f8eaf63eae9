"""What attacks share: the interface, what is known of each image, losses, randomness."""
