"""What a process that runs a model's code may see of our environment.

Containers at Replicate see none of it, and tokens, cloud keys, Prefect's settings and Sentry's
address have no business in a model.
"""

from __future__ import annotations

import os
import re

_ALLOWED = frozenset(
    {"HOME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LOGNAME", "TZ", "USER", "VIRTUAL_ENV"}
    | {"PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"}
    | {"XDG_CACHE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "TMPDIR"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"}
)
# What looks like this has a password in it.
_SIGNED_IN = re.compile(r"//[^/]*@")


def for_models() -> dict[str, str]:
    """The variables on the list that are set, and PATH."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _ALLOWED and not _SIGNED_IN.search(value)
    }
    return {**kept, "PATH": os.environ.get("PATH", os.defpath)}
