"""Queries over more than the bees' memory."""
