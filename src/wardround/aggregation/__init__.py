"""Updates to model: the mean, server rules, standardization; chunk by chunk."""
