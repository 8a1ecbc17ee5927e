"""The same query by plain DataFusion, and the verdict over both answers.

:mod:`~apiary_df.verify.shape` reads off a logical plan what SQL fixes of the answer, :mod:`~apiary_df.verify.verdict`
compares that, and :mod:`~apiary_df.verify.run` hands rows over only after the verdict.
"""
