from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiary_df.config import RULES, Settings, StoreKind, nearest
from apiary_df.errors import ConfigError

KINDS: tuple[StoreKind, ...] = ("folder", "memory", "bucket")


def test_defaults_are_allowed_values() -> None:
    defaults = Settings()
    assert all(rule.accepts(getattr(defaults, name)) for name, rule in RULES.items())


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().keep = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout_s", 0),
        ("timeout_s", -1.0),
        ("timeout_s", float("nan")),
        ("timeout_s", float("inf")),
        ("timeout_s", True),
        ("small_bytes", -1),
        ("small_bytes", 1.5),
        ("small_bytes", None),
        ("target_cell_bytes", 0),
        ("local_bees", -1),
        ("local_bees", True),
        ("progress", 1),
        ("keep", None),
        ("compression", "gzip"),
        ("scratch_dir", ""),
        ("max_attempts", 0),
        ("poll_min_s", "soon"),
    ],
)
def test_value_out_of_bounds_is_refused_with_name_value_and_what_is_allowed(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(**{name: value})
    message = str(caught.value)
    assert message == f"setting {name} is {value!r}; allowed is {RULES[name].allowed()}"
    assert caught.value.details["setting"] == name


@pytest.mark.parametrize(
    "wrong",
    [
        {"heartbeat_s": 3.0, "suspect_after_s": 3.0},
        {"suspect_after_s": 9.0, "dead_after_s": 8.0},
        {"heartbeat_s": 9.0, "dead_after_s": 8.0},
        {"poll_min_s": 0.5, "poll_max_s": 0.1},
    ],
)
def test_periods_out_of_order_are_refused_naming_both(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(**wrong)
    assert all(name in str(caught.value) for name in wrong)


def test_later_sources_win() -> None:
    file = b"timeout_s = 1\nmax_attempts = 2\nlocal_bees = 3"
    environ = {"APIARY_MAX_ATTEMPTS": "5", "APIARY_LOCAL_BEES": "6"}
    settings = Settings.load(environ, file, local_bees=7)
    assert (settings.timeout_s, settings.max_attempts, settings.local_bees) == (1, 5, 7)


def test_text_is_read_by_the_kind_of_the_setting() -> None:
    environ = {
        "APIARY_SMALL_BYTES": "1MiB",
        "APIARY_MIN_TASK_BYTES": "0",
        "APIARY_PROGRESS": "no",
        "APIARY_TIMEOUT_S": "2.5",
        "APIARY_MAX_ATTEMPTS": "2",
        "APIARY_COMPRESSION": "LZ4",
        "APIARY_SCRATCH_DIR": "/fast/disk",
    }
    assert Settings.load(environ) == Settings(
        small_bytes=2**20,
        min_task_bytes=0,
        progress=False,
        timeout_s=2.5,
        max_attempts=2,
        compression="lz4",
        scratch_dir="/fast/disk",
    )


@pytest.mark.parametrize("word", ["auto", "none", "None"])
def test_word_for_none_undoes_a_weaker_source(word: str) -> None:
    assert Settings.load({"APIARY_TIMEOUT_S": word}, b"timeout_s = 1").timeout_s is None


def test_none_is_a_codec_and_auto_leaves_the_codec_to_the_store() -> None:
    assert Settings.load({}, compression="none").compression == "none"
    assert Settings.load({"APIARY_COMPRESSION": "none"}, compression="auto").compression is None


def test_argument_none_undoes_the_environment() -> None:
    assert Settings.load({"APIARY_TIMEOUT_S": "3"}, timeout_s=None).timeout_s is None


def test_empty_and_foreign_variables_set_nothing() -> None:
    environ = {
        "APIARY_TIMEOUT_S": " ",
        "APIARY_CONFIG": "/etc/apiary.toml",
        "APIARY_STORAGE": "s3://b",
        "APIARY_TEST_X": "1",
        "HOME": "/",
    }
    assert Settings.load(environ) == Settings()


@pytest.mark.parametrize(
    ("environ", "file", "overrides", "expected"),
    [
        ({"APIARY_TIMEOUT": "3"}, None, {}, "unknown setting 'timeout' in the environment variable APIARY_TIMEOUT"),
        ({}, b"heartbeats_s = 1", {}, "unknown setting 'heartbeats_s' in the settings file"),
        ({}, None, {"max_attempt": 1}, "unknown setting 'max_attempt' in the arguments"),
    ],
)
def test_unknown_name_is_refused_with_its_source_and_the_nearest_name(
    environ: dict[str, str], file: bytes | None, overrides: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)) as caught:
        Settings.load(environ, file, **overrides)
    assert "did you mean" in str(caught.value)


def test_name_like_no_other_gets_the_list_of_settings() -> None:
    with pytest.raises(ConfigError, match="settings are timeout_s, small_bytes"):
        Settings.load({}, qqqq=1)


@pytest.mark.parametrize(
    ("environ", "file", "expected"),
    [
        (
            {"APIARY_SMALL_BYTES": "lots"},
            None,
            "setting small_bytes in the environment variable APIARY_SMALL_BYTES: 'lots'",
        ),
        ({"APIARY_KEEP": "perhaps"}, None, "setting keep in the environment variable APIARY_KEEP is 'perhaps'"),
        ({}, b"max_attempts = 1.5", "setting max_attempts in the settings file is 1.5; allowed is a whole number"),
        ({}, b"a = ", "the settings file is not TOML"),
        ({}, b"\xff", "the settings file is not TOML"),
    ],
)
def test_bad_value_is_refused_with_its_source(environ: dict[str, str], file: bytes | None, expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        Settings.load(environ, file)


def test_overrides_replace_and_are_checked() -> None:
    assert Settings(keep=True).with_overrides(small_bytes="2K") == Settings(keep=True, small_bytes=2048)
    with pytest.raises(ConfigError, match="did you mean 'timeout_s'"):
        Settings().with_overrides(timeout=1)


@pytest.mark.parametrize(("kind", "heartbeat_s", "compression"), [("folder", 0.25, "none"), ("bucket", 5.0, "lz4")])
def test_unset_settings_follow_the_store(kind: StoreKind, heartbeat_s: float, compression: str) -> None:
    settings = Settings().for_store(kind)
    assert (settings.heartbeat_s, settings.compression) == (heartbeat_s, compression)


def test_set_settings_stay_whatever_the_store() -> None:
    mine = {"heartbeat_s": 1.0, "suspect_after_s": 4.0, "dead_after_s": 7.0, "poll_max_s": 0.1, "compression": "zstd"}
    settings = Settings(**mine).for_store("bucket")  # type: ignore[arg-type]
    assert {name: getattr(settings, name) for name in mine} == mine


def test_slower_heartbeat_makes_suspicion_slower() -> None:
    profile = Settings(heartbeat_s=60).profile_for("folder")
    assert 2 * 60 < profile.suspect_after_s < profile.dead_after_s


def optional(lowest: float, highest: float) -> st.SearchStrategy[float | None]:
    return st.none() | st.floats(lowest, highest).map(lambda value: round(value, 3))


@given(
    st.sampled_from(KINDS),
    optional(0.01, 300),
    optional(0.05, 1200),
    optional(0.1, 3600),
    st.floats(0.001, 3600),
)
def test_filling_in_for_a_store_keeps_what_is_set_and_the_order_of_periods(
    kind: StoreKind, heartbeat_s: float | None, suspect_s: float | None, dead_s: float | None, poll_min_s: float
) -> None:
    try:
        settings = Settings(
            heartbeat_s=heartbeat_s, suspect_after_s=suspect_s, dead_after_s=dead_s, poll_min_s=poll_min_s
        )
    except ConfigError:
        return
    filled = settings.for_store(kind)
    assert all(getattr(filled, name) is not None for name in ("heartbeat_s", "suspect_after_s", "dead_after_s"))
    assert filled.for_store(kind) == filled
    for f in fields(settings):
        given_value = getattr(settings, f.name)
        assert given_value is None or getattr(filled, f.name) == given_value


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(timeout_s=0.1, small_bytes=0, progress=False, compression="none", scratch_dir="/tmp/x", keep=True),
        Settings(small_bytes=3 * 2**30 + 1, progress=True, compression="zstd", poll_max_s=1e-3),
    ],
)
def test_settings_pass_through_the_environment_over_whatever_is_there(settings: Settings) -> None:
    inherited = {"APIARY_TIMEOUT_S": "5", "APIARY_COMPRESSION": "lz4", "APIARY_SCRATCH_DIR": "/other"}
    assert Settings.load({**inherited, **settings.to_environ()}, b"progress = true\nlocal_bees = 4") == settings


def test_every_setting_is_documented_where_it_is_defined() -> None:
    documented = re.findall(r"^        (\w+): ", Settings.__doc__ or "", re.MULTILINE)
    assert documented == list(RULES)


def test_nearest_name_is_offered_only_if_it_is_near() -> None:
    assert nearest("tiemout_s", RULES) == "timeout_s"
    assert nearest("xyz", RULES) is None
