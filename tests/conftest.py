"""Fixtures that several test folders share."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator

import pytest

from apiary_df.store import StoreOptions

S3_ENDPOINT_VARIABLE = "APIARY_TEST_S3_ENDPOINT"
"""Set it to test against another S3 service; credentials then come from the AWS_* variables."""

S3_BUCKET = "apiary-test"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[StoreOptions]:
    """Options that reach an S3 service over HTTP, with the bucket ``s3_bucket`` in it."""
    outside = os.environ.get(S3_ENDPOINT_VARIABLE)
    if outside:
        options = StoreOptions(endpoint=outside, region="us-east-1", allow_http=True).over(
            StoreOptions.from_env(os.environ)
        )
        _create_bucket(options)
        yield options
        return
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = StoreOptions(
        endpoint=f"http://{host}:{port}",
        region="us-east-1",
        access_key_id="test-key-id",
        secret_access_key="test-secret-key",
        allow_http=True,
    )
    try:
        _create_bucket(options)
        yield options
    finally:
        server.stop()


@pytest.fixture(scope="session")
def s3_bucket(s3_endpoint: StoreOptions) -> str:
    """Name of the bucket behind ``s3_endpoint``."""
    return S3_BUCKET


@pytest.fixture
def s3_url(s3_bucket: str) -> str:
    """A prefix of that bucket that no other test uses."""
    return f"s3://{s3_bucket}/{uuid.uuid4().hex}"


def _create_bucket(options: StoreOptions) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=options.endpoint,
        region_name=options.region,
        aws_access_key_id=options.access_key_id,
        aws_secret_access_key=options.secret_access_key,
        aws_session_token=options.session_token,
    )
    if S3_BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=S3_BUCKET)
    client.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes golden texts anew instead of comparing with them."""
    parser.addoption("--update-golden", action="store_true", help="write the texts in tests/golden anew")
