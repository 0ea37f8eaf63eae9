"""What every stage of training goes through."""
