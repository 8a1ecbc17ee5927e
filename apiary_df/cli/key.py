"""``apiary key``: a new swarm key."""

from __future__ import annotations

import typer

from apiary_df.swarm_key import new_key

HELP = """
Make a swarm key and write it to standard output.

Every process of the swarm gets the same one, by APIARY_SWARM_KEY_FILE (or APIARY_SWARM_KEY). From then on it takes
nothing from the storage root that is not signed with it.

**Example**

    (umask 077; apiary key > swarm.key); APIARY_SWARM_KEY_FILE=swarm.key apiary status -s s3://bucket/swarm
"""


def key() -> None:
    """Make a key; see ``HELP``."""
    typer.echo(new_key())
