"""What tells the user about layers and models: check, explain, info."""
