"""What the project's own tests share and ship: comparison of results, contracts, fault tables, strategies.

The rest of the package never imports anything from here.
"""
