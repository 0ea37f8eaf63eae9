"""The parts of AutoAttack (Croce & Hein 2020)."""
