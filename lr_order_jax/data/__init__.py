"""Data sets as plain arrays on the host."""
