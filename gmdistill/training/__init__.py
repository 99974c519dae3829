"""How a student takes steps, and the one rule that differentiates them."""
