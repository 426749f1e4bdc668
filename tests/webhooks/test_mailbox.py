"""Addresses, rows, and a mailbox on a real Prefect server."""

import json
import logging
import re
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from prefect_replicate.webhooks.mailbox import (
    Address,
    Mail,
    address_of,
    mail_in,
    new_mail_key,
    post,
    read,
    row,
    webhook_url,
)

RUN = UUID("6f1c7a0e-3c56-4f0e-9a57-0d6a1e6c2b11")
KEY = "pr-mail-" + "abc123xyz" * 2 + "01234567"
HERE = Address(RUN, KEY)
MAIL = Mail("abc", "succeeded", {"predict_time": 1.5, "words": 3})


def test_a_mail_key_is_one_that_prefect_takes_and_nobody_guesses() -> None:
    keys = {new_mail_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"pr-mail-[a-z0-9]{26}", key) for key in keys)


@pytest.mark.parametrize(
    "public", ["https://hooks.example.com", "https://example.com/a/b/", "http://127.0.0.1:8778"]
)
def test_an_address_is_found_again_in_its_url_and_in_the_path_of_it(public: str) -> None:
    url = webhook_url(public, HERE)
    assert url == f"{public.rstrip('/')}/{RUN}/{KEY}"
    assert address_of(url) == HERE
    assert address_of(f"/{RUN}/{KEY}") == HERE


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        f"/{RUN}",
        f"/{KEY}",
        f"/{KEY}/{RUN}",
        f"/{RUN}/{KEY}/",
        f"/{RUN}/{KEY}\n",
        f"/{RUN}/{KEY}x",
        f"/{RUN}/{KEY[:-1]}",
        f"/{RUN}/{KEY.upper()}",
        f"/{RUN}x/{KEY}",
        f"/0{RUN}/{KEY}",
        f"/{RUN.hex}/{KEY}",
        f"/{{{RUN}}}/{KEY}",
        f"{RUN}/{KEY}",
        f"/{RUN}/{KEY}?x=1",
        f"/{RUN}/replicate-{KEY}",
        f"/{RUN}/../{KEY}",
    ],
)
def test_what_is_no_address_is_none(path: str) -> None:
    assert address_of(path) is None


def test_a_row_is_read_back_as_the_mail_that_it_was() -> None:
    key, value = row(HERE, MAIL)
    assert key == f"{KEY}-abc-succeeded"
    assert json.loads(value) == {
        "v": 1,
        "id": "abc",
        "status": "succeeded",
        "metrics": {"predict_time": 1.5, "words": 3},
    }
    assert mail_in(HERE, key, value) == MAIL


def test_metrics_that_are_no_numbers_are_read_back_all_the_same() -> None:
    odd = Mail("abc", "failed", {"loss": float("inf"), "names": ["é", None], "deep": {"a": [1]}})
    assert mail_in(HERE, *row(HERE, odd)) == odd


def test_too_many_metrics_are_left_out() -> None:
    many = Mail("abc", "succeeded", {f"step {n}": n for n in range(10_000)})
    key, value = row(HERE, many)
    assert len(value) < 1_000
    assert mail_in(HERE, key, value) == Mail("abc", "succeeded")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (f"{KEY}-abc-succeeded", "not json"),
        (f"{KEY}-abc-succeeded", "[]"),
        (f"{KEY}-abc-succeeded", '{"v": 2, "id": "abc", "status": "succeeded"}'),
        (f"{KEY}-abc-succeeded", '{"v": 1, "id": 7, "status": "succeeded"}'),
        (f"{KEY}-abc-succeeded", '{"v": 1, "status": "succeeded"}'),
        (f"{KEY}-abd-succeeded", '{"v": 1, "id": "abc", "status": "succeeded"}'),
        (f"{KEY}-abc-failed", '{"v": 1, "id": "abc", "status": "succeeded"}'),
        (f"{KEY}-abc-processing", '{"v": 1, "id": "abc", "status": "processing"}'),
        (f"{new_mail_key()}-abc-succeeded", '{"v": 1, "id": "abc", "status": "succeeded"}'),
    ],
)
def test_a_row_that_is_damaged_or_of_others_is_no_mail(key: str, value: str) -> None:
    assert mail_in(HERE, key, value) is None


async def test_what_was_posted_is_there_and_a_second_time_is_nothing_new(
    flow_run_id: UUID,
) -> None:
    here = Address(flow_run_id, new_mail_key())
    async with get_client() as client:
        assert await read(client, here, "abc") is None
        assert await post(client, here, MAIL)
        assert not await post(client, here, MAIL)
        assert await read(client, here, "abc") == MAIL


async def test_mail_for_one_job_is_not_in_the_box_of_another(flow_run_id: UUID) -> None:
    here, there = (Address(flow_run_id, new_mail_key()) for _ in range(2))
    async with get_client() as client:
        await post(client, here, MAIL)
        assert await read(client, there, "abc") is None


async def test_mail_about_another_job_does_not_hide_the_right_one(flow_run_id: UUID) -> None:
    here = Address(flow_run_id, new_mail_key())
    async with get_client() as client:
        await post(client, here, Mail("another", "failed"))
        assert await read(client, here, "abc") is None
        assert await post(client, here, MAIL)
        assert await read(client, here, "abc") == MAIL


async def test_a_damaged_row_is_passed_over_with_a_line_in_the_log(
    flow_run_id: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    here = Address(flow_run_id, new_mail_key())
    async with get_client() as client:
        await client.create_flow_run_input(flow_run_id, f"{here.key}-abc-failed", "damaged")
        await post(client, here, MAIL)
        with caplog.at_level(logging.WARNING, logger="prefect.prefect_replicate"):
            assert await read(client, here, "abc") == MAIL
    assert "cannot be read: ignored" in caplog.text


async def test_a_flow_run_that_is_not_there_has_no_mailbox(prefect_server: None) -> None:
    nowhere = Address(uuid4(), new_mail_key())
    async with get_client() as client:
        with pytest.raises(ObjectNotFound):
            await post(client, nowhere, MAIL)
        assert await read(client, nowhere, "abc") is None
