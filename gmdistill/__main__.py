"""`python -m gmdistill` is the same as `gmdistill`."""

from gmdistill import main

if __name__ == "__main__":
  main.entry_point()
