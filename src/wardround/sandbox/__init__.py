"""Foreign code in a box, and the hospital's own work first."""
