"""What FUNN is compared with."""
