"""The build host's bundle of trusted certificates: the one that its environment names, else the distribution's own."""

from __future__ import annotations

import os

#: Where distributions keep it.
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

#: Variables by which programs are told of one.
VARIABLES = (
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
)


def bundle() -> str:
    """The path of the bundle; empty when there is none.  A name that leads nowhere does not hide the others."""
    named = [os.environ[name] for name in VARIABLES if os.environ.get(name)]
    return next((path for path in (*named, *BUNDLES) if os.access(path, os.R_OK)), "")
