"""``python -m apiary_df.cli`` is the command ``apiary``."""

from apiary_df.cli import main

main()
