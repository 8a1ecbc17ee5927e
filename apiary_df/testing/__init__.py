"""Tools for tests of your own: are two results the same rows, and if not, where do they differ first?

Floats are compared to 14 significant digits, everything else exactly; rows in order only where you say so::

    from apiary_df.testing import assert_same

    assert_same(plain.sql(query), swarm.sql(query), ordered=True, order_columns=["region"])

Tables and record batches of pyarrow, and DataFrames of DataFusion, pandas and polars are taken alike. The rest of the
package never imports anything from here; the comparison itself lies in :mod:`apiary_df.comparison`.

How your own code takes a store that fails, loses replies or gives damaged bytes: :mod:`apiary_df.testing.faults`.
"""

from apiary_df.comparison.tables import Difference, ValueDifference, compare_tables
from apiary_df.testing.compare import assert_same

__all__ = ["Difference", "ValueDifference", "assert_same", "compare_tables"]
