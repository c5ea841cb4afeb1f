"""What Wardround does, in terms of ports."""
