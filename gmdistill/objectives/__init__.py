"""What a set is asked to match, and the expert bank."""
