"""How good a set is: protocols, readings, calibration."""
