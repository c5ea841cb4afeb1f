"""What the records mean: the data contract, units, and the study table. Meaning, not access."""
