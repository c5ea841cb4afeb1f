"""What a machine proves about itself: evidence of AMD, Intel and NVIDIA hardware, verified."""
