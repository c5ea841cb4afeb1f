"""What hub and nodes say to each other, and the state machines that decide; no I/O."""
