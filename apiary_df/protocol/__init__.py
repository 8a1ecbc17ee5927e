"""What crosses storage: key layout, messages, partials, heartbeats and mail.

What belongs here: the format of every object below a storage root, and the small readers and writers of them.
What does not: who writes what when (the worker and the coordinator), and how bytes get there (``store``).
"""
