"""What only an S3 service over HTTP shows: prefixes, missing buckets, lost replies, credentials on the wire."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import ClassVar

import pytest

from apiary_df.errors import StorageError, StorageTransient, StorageUnreachable
from apiary_df.store import StoreOptions, open_store

pytestmark = pytest.mark.s3


def test_two_roots_in_one_bucket_do_not_see_each_other(s3_url: str, s3_endpoint: StoreOptions) -> None:
    one = open_store(f"{s3_url}/one", s3_endpoint, environ={})
    two = open_store(f"{s3_url}/two", s3_endpoint, environ={})
    one.put("k", b"1")
    assert two.list("") == []
    assert [m.key for m in open_store(s3_url, s3_endpoint, environ={}).list("")] == ["one/k"]


def test_the_environment_alone_is_enough(s3_url: str, s3_endpoint: StoreOptions) -> None:
    environ = {
        "AWS_ENDPOINT_URL": str(s3_endpoint.endpoint),
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": str(s3_endpoint.access_key_id),
        "AWS_SECRET_ACCESS_KEY": str(s3_endpoint.secret_access_key),
        "AWS_ALLOW_HTTP": "true",
    }
    store = open_store(s3_url, environ=environ)
    store.put("k", b"1")
    assert store.get("k") == b"1"


def test_a_missing_bucket_is_unreachable_not_a_missing_object(s3_endpoint: StoreOptions) -> None:
    store = open_store("s3://no-such-bucket/x", s3_endpoint, environ={})
    with pytest.raises(StorageUnreachable, match="NoSuchBucket"):
        store.check_writable()
    for ask in (
        lambda: store.put("k", b"1"),
        lambda: store.get("k"),
        lambda: store.get_or_none("k"),
        lambda: store.get_range("k", 0, 1),
        lambda: store.get_start("k", 1),
        lambda: store.list("q"),
        lambda: store.list_names("q"),
        lambda: store.move("k", "m"),
    ):
        with pytest.raises(StorageUnreachable, match="NoSuchBucket"):
            ask()


def test_a_listing_longer_than_one_page_is_whole(s3_url: str, s3_endpoint: StoreOptions) -> None:
    store = open_store(s3_url, s3_endpoint, environ={})
    keys = [f"q/{i:04}" for i in range(1_005)]
    for key in keys:
        store.put(key, b"")
    before = store.counts.snapshot()["list"]
    assert [m.key for m in store.list("q")] == keys
    assert store.counts.snapshot()["list"] - before == 2
    assert store.delete_prefix("q") == len(keys)
    assert store.list("") == []


class _Recorder(BaseHTTPRequestHandler):
    """A tiny S3 of one object whose replies to PUT a test chooses."""

    put_replies: ClassVar[list[int]]
    headers_seen: ClassVar[list[dict[str, str]]]
    stored: ClassVar[dict[str, bytes]]
    honours_conditions: ClassVar[bool]
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.headers_seen.append({k.lower(): v for k, v in self.headers.items()})
        if self.honours_conditions and self.headers.get("if-none-match") and self.path in self.stored:
            self._reply(412)
            return
        self.stored[self.path] = body
        self._reply(self.put_replies.pop(0) if self.put_replies else 200)

    def do_GET(self) -> None:
        body = self.stored.get(self.path)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        if body is None or asked is None:
            self._reply(404 if body is None else 200, body or b"")
            return
        part = body[int(asked[1]) : int(asked[2]) + 1]
        self._reply(206, part, {"content-range": f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(body)}"})

    def do_HEAD(self) -> None:
        self._reply(200 if self.path in self.stored else 404)

    def do_POST(self) -> None:  # a bulk delete
        self.rfile.read(int(self.headers["content-length"]))
        self._reply(200, b"<DeleteResult><Deleted><Key>any</Key></Deleted></DeleteResult>")

    def _reply(self, status: int, body: bytes = b"", headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("etag", '"x"')
        self.send_header("last-modified", "Sun, 22 Nov 2026 23:24:12 GMT")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def recorder() -> Iterator[tuple[type[_Recorder], StoreOptions]]:
    class Handler(_Recorder):
        put_replies: ClassVar[list[int]] = []
        headers_seen: ClassVar[list[dict[str, str]]] = []
        stored: ClassVar[dict[str, bytes]] = {}
        honours_conditions: ClassVar[bool] = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield (
        Handler,
        StoreOptions(
            endpoint=f"http://127.0.0.1:{server.server_port}",
            region="us-east-1",
            access_key_id="test-key-id",
            secret_access_key="test-secret-key",
            allow_http=True,
            max_retries=0,
        ),
    )
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_create_whose_reply_was_lost_is_known_as_ours(
    recorder: tuple[type[_Recorder], StoreOptions],
) -> None:
    handler, options = recorder
    handler.put_replies = [500]  # written, but answered with an error
    assert open_store("s3://b", options, environ={}).create("k", b"token-1", "token-1") is True
    assert len(handler.headers_seen) == 1


def test_a_create_that_fails_for_good_is_transient(recorder: tuple[type[_Recorder], StoreOptions]) -> None:
    handler, options = recorder
    handler.stored = _Forgetful()
    handler.put_replies = [500] * 20
    with pytest.raises(StorageTransient, match="5 tries"):
        open_store("s3://b", options, environ={}).create("k", b"token-1", "token-1")


class _Forgetful(dict[str, bytes]):
    def __setitem__(self, key: str, value: bytes) -> None:
        return


def test_a_store_that_ignores_conditions_is_refused(recorder: tuple[type[_Recorder], StoreOptions]) -> None:
    handler, options = recorder
    handler.honours_conditions = False
    with pytest.raises(StorageUnreachable, match="created twice"):
        open_store("s3://b", options, environ={}).check_writable()


def test_a_transient_failure_is_retried_as_the_options_say(
    recorder: tuple[type[_Recorder], StoreOptions],
) -> None:
    handler, options = recorder
    handler.put_replies = [503, 503]
    open_store("s3://b", replace(options, max_retries=3), environ={}).put("k", b"1")
    assert len(handler.headers_seen) == 3


def test_refused_credentials_are_a_plain_storage_error(
    recorder: tuple[type[_Recorder], StoreOptions],
) -> None:
    handler, options = recorder
    handler.put_replies = [403]
    with pytest.raises(StorageError) as caught:
        open_store("s3://b", options, environ={}).put("k", b"1")
    assert type(caught.value) is StorageError
    assert "test-secret-key" not in str(caught.value)


def test_explicit_keys_are_not_joined_by_a_leftover_token(
    recorder: tuple[type[_Recorder], StoreOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, options = recorder
    monkeypatch.setenv("AWS_SESSION_TOKEN", "leftover")
    open_store("s3://b", options).put("k", b"1")
    assert "x-amz-security-token" not in handler.headers_seen[0]
    assert "test-key-id" in handler.headers_seen[0]["authorization"]
