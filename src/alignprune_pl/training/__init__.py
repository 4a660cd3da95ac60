"""What the command trains, and the folder that a run leaves."""
