"""Many sessions at work on one swarm at the same time: are all answers exact, and is nobody made to wait for others?"""
