"""What happened, provably: a Merkle log of typed entries, its checkpoints, witnesses and proofs."""
