"""Physical plans as values: decoding, rewriting, cutting into stages.

What belongs here decides and never does: no file, network, clock, randomness or environment is touched.
The one engine call, asking DataFusion for a subtree's schema (:mod:`apiary_df.plan.schema`), reads no input.
"""
