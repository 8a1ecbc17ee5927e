"""Are two results the same rows? What ``verify=True``, the demo and :mod:`apiary_df.testing` judge by."""
