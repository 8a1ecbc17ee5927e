"""Real nodes under fire: processes that are killed, frozen and told to leave at random while queries run."""
