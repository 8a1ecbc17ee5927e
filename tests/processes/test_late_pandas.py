"""A node starts without pandas, and has pyarrow know of it when it may be needed."""

from __future__ import annotations

import subprocess
import sys

LATE = """
import sys
from apiary_df.late_pandas import load_datafusion, tell_pyarrow

load_datafusion()
import apiary_df.cli.app, apiary_df.worker.bee_process, apiary_df.worker.node, apiary_df.worker.process_executor
assert "datafusion" in sys.modules
assert "pandas" not in sys.modules

import pandas as pd
import pyarrow as pa

nan = pd.Series([float("nan")])
assert pa.array(nan).null_count == 0, "pyarrow looks for pandas by itself: the module is needed no more"
tell_pyarrow()
assert pa.array(nan).null_count == 1
assert pa.array([1]).to_pandas().tolist() == [1]
"""

WITHOUT = """
import sys
from apiary_df.late_pandas import _NotNow, load_datafusion, tell_pyarrow

load_datafusion()
sys.meta_path.insert(0, _NotNow())
tell_pyarrow()
assert "pandas" not in sys.modules
"""

LOADED = """
import pandas as pd
from apiary_df.late_pandas import load_datafusion

load_datafusion()
import pyarrow as pa
assert pa.array(pd.Series([float("nan")])).null_count == 1
"""


def run(code: str) -> None:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr


def test_pandas_comes_when_it_may_be_needed() -> None:
    run(LATE)


def test_where_there_is_no_pandas_nothing_is_told() -> None:
    run(WITHOUT)


def test_a_process_that_has_loaded_it_keeps_it() -> None:
    run(LOADED)
