"""AutoAttack (Croce and Hein 2020): its standard version, and the parts of that."""
