"""Running tasks: an engine per bee, one task at a time on it, and the node that feeds the bees from its inbox."""
