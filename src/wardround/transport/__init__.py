"""How a node or researcher reaches the hub: it dials out."""
