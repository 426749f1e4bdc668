"""Sign and verify webhooks as Standard Webhooks has it (https://www.standardwebhooks.com).

The signature covers id, timestamp and the raw body, not the address: whoever sees a webhook can
send it to another address until it is stale. What it says is true; where it arrived proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from standardwebhooks import Webhook

from prefect_replicate.api.errors import ConfigurationError, WebhookError

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
# Seconds; the standardwebhooks package accepts no older and no newer ones.
TOLERANCE = 300.0


def sign(secret: str, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The three headers of a webhook.

    Args:
        secret: "whsec_" and base64.
        message_id: The same for every delivery of one message.
        at: When this delivery is sent; aware of its time zone.
        body: UTF-8, as it will be sent.

    Raises:
        ConfigurationError: The secret is none.
    """
    moment = at.astimezone(UTC)
    return {
        ID: message_id,
        TIMESTAMP: str(int(moment.timestamp())),
        SIGNATURE: _webhook(secret).sign(message_id, moment, body.decode()),
    }


def verify(
    secret: str, headers: Mapping[str, str], body: bytes, *, tolerance: float = TOLERANCE
) -> str:
    """Make sure that a webhook comes from whoever knows the secret, and now.

    Args:
        secret: "whsec_" and base64.
        headers: Of the request, in any case.
        body: As it arrived, before any parsing.
        tolerance: Seconds that the sender's clock may be off, at most 300.

    Returns:
        The message's id, the same for every delivery of one message.

    Raises:
        WebhookError: It is not signed, forged, or stale.
        ConfigurationError: The secret is none.
    """
    webhook = _webhook(secret)
    said = {name.lower(): value for name, value in headers.items()}
    try:
        sent, _ = said[ID], said[SIGNATURE]
        age = datetime.now(UTC).timestamp() - _seconds(said[TIMESTAMP])
    except KeyError as error:
        raise WebhookError(f"The webhook has no header {error}, so it is not signed.") from None
    if abs(age) > min(tolerance, TOLERANCE):
        way = "old" if age > 0 else "far in the future"
        raise WebhookError(
            f"Webhook {sent!r} is {abs(age):.0f} s {way}, more than {tolerance:g} s. It was held "
            f"up, repeated by somebody, or a clock is wrong."
        )
    said[SIGNATURE] = " ".join(filter(_OURS.fullmatch, said[SIGNATURE].split()))
    try:
        webhook.verify(body, said, json_parse=False)
    except Exception:  # noqa: BLE001 - the package raises all kinds; none of them is a signature
        raise WebhookError(
            f"Webhook {sent!r} is not signed with this secret. It is forged, or the secret is "
            f"that of another account."
        ) from None
    return sent


# Of the versions of signatures there is one that is known; the package fails on a malformed one.
_OURS = re.compile(r"v1,[A-Za-z0-9+/]{43}=")


def _seconds(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise WebhookError(f"The webhook's timestamp {text[:40]!r} is no number of seconds.")
    return int(text)


def _webhook(secret: str) -> Webhook:
    try:
        if not secret.startswith("whsec_"):
            raise ValueError  # noqa: TRY301 - the same to say as for what the package raises
        return Webhook(secret)
    except Exception:  # noqa: BLE001 - broken base64, nothing in it, or anything else
        raise ConfigurationError(
            "The webhook secret is none: it begins with 'whsec_', and base64 follows. It is not "
            "shown here. `get_webhook_secret` reads the account's own."
        ) from None
