"""What the fields of a config are, must be, and mean."""
