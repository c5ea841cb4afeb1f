"""From coded events of any source to a study's columns: the layer that makes hospitals' records comparable."""
