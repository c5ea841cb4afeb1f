"""The hub: wires services, storage and the web."""
