"""What a query left in storage, read back: what happened, and one of its tasks once more.

What belongs here: reading a query's objects, kept or orphaned, as values, and running a task of it in this process.
What does not: how that is shown (``cli``), and what is written when (``query_objects``).
"""
