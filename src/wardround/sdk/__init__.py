"""What a researcher does from Python: declare a study, try it, submit it, watch it, fetch its model."""
