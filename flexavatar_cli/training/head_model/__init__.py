"""Builds `models/open-head` from openly licensed material; not needed at run time."""
