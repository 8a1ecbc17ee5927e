"""The store, the protocol and whole queries against an S3 service over HTTP."""
