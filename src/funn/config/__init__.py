"""From Hydra's configuration to checked values and objects."""
