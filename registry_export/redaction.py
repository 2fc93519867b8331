"""What must not be told: credentials are taken out of every text that leaves for a log, here and nowhere else."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote, unquote

HIDDEN = "***"

_SECRET_NAME = re.compile(
    r"(?:^|_)(?:(?:PG)?PASSWORD|PASSWD|PASSPHRASE|TOKEN|SECRETS?|CREDENTIALS?|API_?KEY|ACCESS_KEY|PRIVATE_KEY"
    r"|CONNECTION_STRING)(?:_|$)",
    re.I,
)
_NO_SECRETS = frozenset({"true", "false", "none"})
_SHORTEST = 4
"""A value of fewer letters is part of too many words to be taken out of all of them."""

_PASSWORD_IN_URL = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://[^\s:/?#@]*:)(?P<secret>[^\s/]+)(?=@)")
_TOKEN_IN_URL = re.compile(r"(?P<before>https?://)[^\s/:@]+(?=@)", re.I)
_IN_QUERY = re.compile(
    r"(?P<before>[?&;](?:x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|sig|signature"
    r"|password|token|access_token|api_?key|awsaccesskeyid|accountkey)=)[^&;\s'\"<>)]+",
    re.I,
)
_IN_HEADER = re.compile(r"(?P<before>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.I)
_ANYWHERE = (_PASSWORD_IN_URL, _TOKEN_IN_URL, _IN_QUERY, _IN_HEADER)


def redact(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return a text without credentials.

    Taken out are passwords in URLs, signatures and tokens in their queries, authorization headers, and wherever they
    stand the values of environment variables whose names say that they are secret (`MLFLOW_TRACKING_PASSWORD`,
    `AWS_SECRET_ACCESS_KEY`) and the passwords in those that are URLs.
    """
    known = _known(frozenset(_secrets_of(environ)))
    if known is not None:
        text = known.sub(HIDDEN, text)
    for pattern in _ANYWHERE:
        text = pattern.sub(rf"\g<before>{HIDDEN}", text)
    return text


def _secrets_of(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        if _SECRET_NAME.search(name) and not name.endswith("_FILE"):
            yield value
        yield from (found["secret"] for found in _PASSWORD_IN_URL.finditer(value))


@functools.lru_cache(maxsize=8)
def _known(secrets: frozenset[str]) -> re.Pattern[str] | None:
    spellings = {spelling for secret in secrets for spelling in (secret, unquote(secret), quote(secret, safe=""))}
    words = [word for word in spellings if len(word) >= _SHORTEST and word.lower() not in _NO_SECRETS]
    # The longest first: one secret may begin with another.
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True)))) if words else None
