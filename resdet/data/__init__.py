"""Data sets, and how images reach the network."""
