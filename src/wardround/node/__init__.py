"""The node: wires services, sources, training and transport."""
