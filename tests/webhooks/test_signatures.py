"""Signatures: what the sender makes, and what the receiver believes."""

from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook

from prefect_replicate import ConfigurationError, WebhookError
from prefect_replicate.webhooks.signatures import ID, SIGNATURE, TIMESTAMP, sign, verify

SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
OTHER = "whsec_AAAAsBQIhrscChlQIMV+b5sSYspob7oD"
BODY = '{"id":"ä","status":"succeeded"}'.encode()


def _sent(ago: float = 0.0) -> dict[str, str]:
    return sign(SECRET, "msg_1", datetime.now(UTC) - timedelta(seconds=ago), BODY)


def test_the_example_of_the_standard_is_signed_as_it_says() -> None:
    # From the description of the standard; its secret and its signature.
    headers = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        b'{"test": 2432232314}',
    )
    assert headers[TIMESTAMP] == "1614265330"
    assert headers[SIGNATURE] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_what_is_signed_is_believed_and_has_its_id() -> None:
    assert verify(SECRET, _sent(), BODY) == "msg_1"


def test_headers_are_found_in_any_case() -> None:
    shouted = {name.upper(): value for name, value in _sent().items()}
    assert verify(SECRET, shouted, BODY) == "msg_1"


@pytest.mark.parametrize(
    ("change", "body"),
    [
        ({}, BODY + b" "),
        ({}, b"\xff"),
        ({ID: "msg_2"}, BODY),
        ({SIGNATURE: ""}, BODY),
        ({SIGNATURE: "v1,"}, BODY),
        ({SIGNATURE: "nonsense"}, BODY),
        ({SIGNATURE: "v1,!!!"}, BODY),
        ({SIGNATURE: "v1," + "A" * 43 + "="}, BODY),
    ],
)
def test_what_was_changed_is_forged(change: dict[str, str], body: bytes) -> None:
    with pytest.raises(WebhookError, match="not signed with this secret"):
        verify(SECRET, {**_sent(), **change}, body)


def test_another_version_of_signature_is_not_enough() -> None:
    headers = _sent()
    headers[SIGNATURE] = headers[SIGNATURE].replace("v1,", "v2,")
    with pytest.raises(WebhookError, match="not signed"):
        verify(SECRET, headers, BODY)


def test_another_secret_is_forged() -> None:
    with pytest.raises(WebhookError, match="another account"):
        verify(OTHER, _sent(), BODY)


def test_one_right_signature_among_others_and_among_nonsense_is_enough() -> None:
    headers = _sent()
    other = sign(OTHER, "msg_1", datetime.now(UTC), BODY)[SIGNATURE]
    headers[SIGNATURE] = f"v1a,xx garbage v1,==, {other} {headers[SIGNATURE]} v1"
    assert verify(SECRET, headers, BODY) == "msg_1"


@pytest.mark.parametrize("missing", [ID, TIMESTAMP, SIGNATURE])
def test_without_one_of_the_headers_it_is_not_signed(missing: str) -> None:
    headers = _sent()
    del headers[missing]
    # The header of older notes is no signature.
    headers["X-Replicate-Signature"] = "v1," + "A" * 43 + "="
    with pytest.raises(WebhookError, match="not signed"):
        verify(SECRET, headers, BODY)


@pytest.mark.parametrize(("ago", "way"), [(301, "old"), (-302, "future")])
def test_five_minutes_are_the_limit_either_way(ago: float, way: str) -> None:
    with pytest.raises(WebhookError, match=way):
        verify(SECRET, _sent(ago), BODY)
    assert verify(SECRET, _sent(ago * 0.97), BODY) == "msg_1"


def test_the_tolerance_can_be_smaller_but_never_greater() -> None:
    with pytest.raises(WebhookError, match="old"):
        verify(SECRET, _sent(20), BODY, tolerance=10)
    with pytest.raises(WebhookError, match="old"):
        verify(SECRET, _sent(400), BODY, tolerance=3600)


@pytest.mark.parametrize("said", ["", "nan", "1e9", "-1", "²", "1" * 20, "inf"])
def test_a_timestamp_that_is_none_is_refused(said: str) -> None:
    with pytest.raises(WebhookError, match="no number of seconds"):
        verify(SECRET, {**_sent(), TIMESTAMP: said}, BODY)


@pytest.mark.parametrize("secret", ["", "whsec_", "C2FVsBQIhrscChlQIMV", "whsec_ä", "whsec_A"])
def test_a_secret_that_is_none_is_told_without_showing_it(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="begins with 'whsec_'") as caught:
        sign(secret, "m", datetime.now(UTC), b"")
    assert "C2FVsBQIhrscChlQIMV" not in str(caught.value)


def test_the_standards_own_package_agrees() -> None:
    assert Webhook(SECRET).verify(BODY, _sent()) == {"id": "ä", "status": "succeeded"}
