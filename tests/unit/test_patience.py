from __future__ import annotations

import pytest

from apiary_df.errors import StorageTransient
from apiary_df.patience import Patience

ERROR = StorageTransient("503 Slow Down")


def test_failures_are_borne_with_until_they_have_gone_on_for_too_long() -> None:
    moments = iter([10.0, 14.9, 15.0])
    patience = Patience(5.0, lambda: next(moments))
    patience.bear(ERROR)
    patience.bear(ERROR)
    with pytest.raises(StorageTransient) as caught:
        patience.bear(ERROR)
    assert caught.value is ERROR


def test_a_success_between_two_failures_begins_the_wait_anew() -> None:
    moments = iter([0.0, 100.0, 104.0])
    patience = Patience(5.0, lambda: next(moments))
    patience.bear(ERROR)
    patience.worked()
    patience.bear(ERROR)
    patience.bear(ERROR)


def test_without_any_patience_the_first_failure_is_raised() -> None:
    with pytest.raises(StorageTransient):
        Patience(0.0, lambda: 1.0).bear(ERROR)
