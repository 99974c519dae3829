"""The machine: files, processes, devices, checkpoints, logs, costs."""
