"""What others' code costs on this machine, measured in environments of its own."""
