"""Parses the secret that signs webhooks, in the format of the Standard Webhooks specification: `whsec_` and
base64."""

from __future__ import annotations

import base64
import binascii

_PREFIX = "whsec_"
_LEAST, _MOST = 24, 64
"""Limit the length of the key, in bytes."""


def webhook_key(secret: str) -> bytes:
    """Returns the key. Raises ValueError, without the secret in its message, if the secret is invalid."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(_PREFIX) or not _LEAST <= len(key) <= _MOST:
        raise ValueError(
            f"CRM_WEBHOOK_SECRET must be whsec_ and {_LEAST} to {_MOST} random bytes in base64; "
            'create one with: python -c "import base64, os; '
            "print('whsec_' + base64.b64encode(os.urandom(32)).decode())\""
        )
    return key
