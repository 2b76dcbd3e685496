"""Synthetic heads on the open head model: materials, hair, views (DESIGN 4.3, 9)."""
