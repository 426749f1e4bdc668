"""The client over real sockets: what it repeats, what it names, where the token goes."""

import asyncio
import io
import pickle
import traceback

import pytest

from prefect_replicate.api import calls
from prefect_replicate.api.client import (
    Access,
    Client,
    Downloads,
    InterruptedCreate,
    api_url,
)
from prefect_replicate.api.errors import (
    APIError,
    AuthenticationError,
    BadInputError,
    BillingError,
    ConfigurationError,
    CreateUnknownError,
    NotFoundError,
    RateLimitError,
    TransportError,
)
from prefect_replicate.api.references import Name
from prefect_replicate.api.transports import Transport
from tests.api.conftest import CUT, FAST, TOKEN, Script, answer

ACCOUNT = '{"type": "user", "username": "me", "name": "Me"}'
PREDICTION = '{"id": "abc", "status": "starting"}'
CREATE = calls.predictions_create("a" * 64, {"prompt": "hi"})
TRAIN = calls.trainings_create(Name("o", "n"), "a" * 64, destination=Name("m", "d"), input={})


@pytest.mark.parametrize(
    "base_url",
    ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"],
)
def test_the_base_url_is_understood_with_and_without_v1(base_url: str) -> None:
    assert api_url(base_url) == "http://h:1/v1"


@pytest.mark.parametrize("base_url", ["", "h:1", "ftp://h", "https://"])
def test_a_base_url_that_is_none_is_refused(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="not the URL of an API"):
        api_url(base_url)


async def test_a_call_carries_the_token_and_reads_the_answer(
    script: Script, client: Client
) -> None:
    script.answers = [answer(200, ACCOUNT)]
    assert (await client.send(calls.account_get())).username == "me"
    assert script.lines == ["GET /v1/account HTTP/1.1"]
    assert f"authorization: bearer {TOKEN}".encode() in script.requests[0].lower()


@pytest.mark.parametrize("trouble", [CUT, answer(500), answer(429), answer(502, "<html>")])
async def test_a_read_is_repeated_until_it_works(
    script: Script, client: Client, trouble: bytes
) -> None:
    script.answers = [trouble, trouble, answer(200, ACCOUNT)]
    assert (await client.send(calls.account_get())).username == "me"
    assert len(script.requests) == 3


@pytest.mark.parametrize("create", [CREATE, TRAIN], ids=["prediction", "training"])
@pytest.mark.parametrize("trouble", [CUT, answer(500), answer(503), answer(201, "{torn")])
async def test_a_create_whose_answer_is_lost_is_sent_once_and_says_so(
    script: Script, client: Client, trouble: bytes, create: calls.Call[object]
) -> None:
    script.answers = [trouble, answer(201, PREDICTION)]
    with pytest.raises(CreateUnknownError, match="may cost money"):
        await client.send(create)
    assert len(script.requests) == 1


async def test_a_throttled_create_was_not_made_and_is_sent_again(
    script: Script, client: Client
) -> None:
    script.answers = [answer(429, "{}", "Retry-After: 0"), answer(201, PREDICTION)]
    assert (await client.send(CREATE)).id == "abc"
    assert len(script.requests) == 2


async def test_a_throttle_longer_than_our_patience_is_raised_with_its_length(
    script: Script, client: Client
) -> None:
    script.answers = [answer(429, '{"detail": "Your rate limit resets in ~30s."}')]
    with pytest.raises(RateLimitError, match="asks to wait 30 s") as caught:
        await client.send(CREATE)
    assert caught.value.retry_after == 30


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadInputError),
        (401, AuthenticationError),
        (402, BillingError),
        (403, AuthenticationError),
        (404, NotFoundError),
        (409, BadInputError),
        (413, BadInputError),
        (422, BadInputError),
    ],
)
async def test_a_refusal_is_raised_at_once_with_replicates_own_words(
    script: Script, client: Client, status: int, kind: type[APIError]
) -> None:
    script.answers = [answer(status, '{"title": "No", "detail": "- input: prompt is required\\n"}')]
    with pytest.raises(kind, match="No: - input: prompt is required") as caught:
        await client.send(CREATE)
    assert caught.value.status == status
    assert "nothing was charged" in str(caught.value)
    assert len(script.requests) == 1


async def test_a_refusal_as_a_html_page_does_not_spill_it(script: Script, client: Client) -> None:
    script.answers = [answer(403, "<html><body>blocked</body></html>")]
    with pytest.raises(AuthenticationError) as caught:
        await client.send(calls.account_get())
    assert "<html>" not in str(caught.value)


async def test_an_api_that_is_not_there_is_named(
    unused_tcp_port: int, transport: Transport
) -> None:
    base_url = f"http://127.0.0.1:{unused_tcp_port}"
    access = Access(base_url, TOKEN)
    async with Client(access, policy=FAST, transport=transport) as client:
        with pytest.raises(TransportError, match=f"{base_url}/v1 gave no usable answer") as caught:
            await client.send(CREATE)
    assert "No job was made" in str(caught.value)
    assert not isinstance(caught.value, CreateUnknownError)


async def test_an_answer_that_never_ends_is_a_lost_one(script: Script, client: Client) -> None:
    script.answers = [b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{"]
    create = calls.Call(
        operation="predictions.create",
        method="POST",
        path="/predictions",
        parse=dict,
        doing="creating a prediction",
        body={},
        creates_job=True,
        within=0.2,
    )
    with pytest.raises(CreateUnknownError, match="no answer within"):
        await client.send(create)


async def test_a_redirect_is_not_followed_so_the_token_stays(
    script: Script, client: Client
) -> None:
    script.answers = [answer(302, "", f"Location: {script.base_url}/elsewhere")]
    with pytest.raises(BadInputError, match="HTTP 302"):
        await client.send(calls.account_get())
    assert len(script.requests) == 1


async def test_files_are_fetched_without_the_token(script: Script, downloads: Downloads) -> None:
    script.answers = [answer(200, "content")]
    async with downloads.open(f"{script.base_url}/file") as response:
        assert await response.aread() == b"content"
    assert b"authorization" not in script.requests[0].lower()


@pytest.mark.parametrize(("status", "kind"), [(404, NotFoundError), (500, TransportError)])
async def test_a_file_that_cannot_be_fetched_is_named(
    script: Script, downloads: Downloads, status: int, kind: type[APIError]
) -> None:
    script.answers = [answer(status)]
    with pytest.raises(kind, match="/file"):
        async with downloads.open(f"{script.base_url}/file"):
            pass


@pytest.mark.parametrize(
    "cut",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\nhalf",
        answer(200, "not gzip", "Content-Encoding: gzip"),
    ],
    ids=["cut", "torn"],
)
async def test_a_file_that_does_not_come_whole_is_not_taken_for_it(
    script: Script, downloads: Downloads, cut: bytes
) -> None:
    script.answers = [cut]
    with pytest.raises(TransportError):
        async with downloads.open(f"{script.base_url}/file") as response:
            await response.aread()


@pytest.mark.parametrize("token", ["r8_x\n", " r8_x "])
async def test_a_token_read_from_a_file_may_end_with_a_line_break(
    script: Script, token: str, transport: Transport
) -> None:
    script.answers = [answer(200, ACCOUNT)]
    async with Client(Access(script.base_url, token), transport=transport) as client:
        await client.send(calls.account_get())
    assert b"authorization: bearer r8_x\r\n" in script.requests[0].lower()


@pytest.mark.parametrize("token", ["", " ", "two words", "r8_\nx", "gehéim"])
def test_a_token_that_cannot_be_one_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ConfigurationError, match="not shown here") as caught:
        Client(Access("http://h", token))
    assert not token.strip() or token not in str(caught.value)


async def test_a_body_that_cannot_be_read_means_the_job_exists(
    script: Script, client: Client
) -> None:
    script.answers = [answer(201, "not gzip", "Content-Encoding: gzip")]
    with pytest.raises(CreateUnknownError) as caught:
        await client.send(CREATE)
    assert TOKEN.encode() not in pickle.dumps(caught.value)


@pytest.mark.parametrize("value", [object(), float("nan"), b"bytes"])
async def test_input_that_is_not_json_is_refused_before_anything_is_sent(
    script: Script, client: Client, value: object
) -> None:
    with pytest.raises(BadInputError, match="Nothing was sent"):
        await client.send(calls.predictions_create("a" * 64, {"image": value}))
    assert script.requests == []


async def test_a_create_that_is_interrupted_on_its_way_tells_what_came_of_it(
    script: Script, client: Client
) -> None:
    script.pause = 0.2
    script.answers = [answer(201, PREDICTION)]
    sending = asyncio.ensure_future(client.send(CREATE))
    while not script.requests:
        await asyncio.sleep(0.01)
    sending.cancel()
    with pytest.raises(InterruptedCreate) as caught:
        await sending
    assert caught.value.result.id == "abc"


async def test_a_create_that_waits_for_its_turn_is_not_sent_once_it_is_interrupted(
    script: Script, client: Client
) -> None:
    script.answers = [answer(429, "{}", "Retry-After: 1"), answer(201, PREDICTION)]
    sending = asyncio.ensure_future(client.send(CREATE))
    while not script.requests:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await sending
    assert not isinstance(caught.value, InterruptedCreate)
    assert len(script.requests) == 1


async def test_requests_in_flight_are_bounded(script: Script, transport: Transport) -> None:
    script.pause = 0.05
    script.answers = [answer(200, ACCOUNT)] * 20
    access = Access(script.base_url, TOKEN)
    async with Client(access, in_flight=3, transport=transport) as client:
        await asyncio.gather(*(client.send(calls.account_get()) for _ in range(20)))
    assert script.most_at_once == 3


def test_a_prediction_carries_its_deadline() -> None:
    assert calls.predictions_create("a" * 64, {}, cancel_after=90).headers == {
        "Cancel-After": "90s"
    }


async def test_a_repeated_upload_sends_the_whole_file_again(script: Script, client: Client) -> None:
    stored = '{"id": "f", "urls": {"get": "https://x"}}'
    script.answers = [answer(500), answer(201, stored)]
    file = io.BytesIO(b"all of it")
    await client.send(calls.files_create(calls.Upload(file, "a.txt", "text/plain")))
    assert [b"all of it" in request for request in script.requests] == [True, True]
    assert b'filename="a.txt"' in script.requests[1]


async def test_errors_pickle_with_their_facts_and_without_the_token(
    script: Script, client: Client
) -> None:
    script.answers = [answer(422, '{"detail": "bad", "invalid_fields": [{"field": "x"}]}')]
    with pytest.raises(BadInputError) as caught:
        await client.send(CREATE)
    pickled = pickle.dumps(caught.value)
    copy = pickle.loads(pickled)
    assert TOKEN.encode() not in pickled
    assert (copy.status, copy.body["invalid_fields"]) == (422, [{"field": "x"}])
    shown = repr(copy) + "".join(traceback.format_exception(caught.value))
    assert TOKEN not in shown
    assert TOKEN not in repr(Access("http://h", TOKEN))


async def test_a_list_is_read_page_by_page_from_the_apis_own_host(
    script: Script, client: Client
) -> None:
    first = '{"results": [{"id": "a", "status": "failed"}], "next": "%s"}'
    elsewhere = "https://elsewhere.example/v1/predictions?cursor=bz0x&x=%2B"
    script.answers = [
        answer(200, first % elsewhere),
        answer(200, '{"results": [{"id": "b", "status": "new"}], "next": null}'),
    ]
    found = [one.id async for one in client.pages(calls.predictions_list(created_after="2026"))]
    assert found == ["a", "b"]
    assert script.lines == [
        "GET /v1/predictions?created_after=2026 HTTP/1.1",
        "GET /v1/predictions?cursor=bz0x&x=%2B HTTP/1.1",
    ]


async def test_text_bytes_and_nothing_are_read_as_what_they_are(
    script: Script, client: Client
) -> None:
    script.answers = [answer(200, "# Readme"), answer(204, ""), answer(200, "\x00{")]
    assert await client.send(calls.models_readme_get(Name("o", "n"))) == "# Readme"
    await client.send(calls.files_delete("f"))
    download = calls.files_download("f", owner="o", expiry=1, signature="a+b=")
    assert await client.send(download) == b"\x00{"
    assert script.lines[2].startswith("GET /v1/files/f/download?owner=o&expiry=1&signature=a%2Bb")


async def test_a_search_of_models_sends_the_words_themselves(
    script: Script, client: Client
) -> None:
    script.answers = [answer(200, '{"results": [], "next": null}')]
    assert (await client.send(calls.models_search('say "hi"'))).results == []
    assert script.lines == ["QUERY /v1/models HTTP/1.1"]
    assert script.requests[0].endswith(b'\r\n\r\nsay "hi"')
    assert b"content-type: text/plain" in script.requests[0].lower()
