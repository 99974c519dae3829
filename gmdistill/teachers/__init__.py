"""What others know of the rows: teachers, divergences, rationales."""
