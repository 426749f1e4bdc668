"""Files for models: uploaded to Replicate, where they live for a day or less."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from prefect_replicate.api import calls
from prefect_replicate.api.resources import File
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.jobs.contents import find_source, from_url, read
from prefect_replicate.tasks.predictions import id_of
from prefect_replicate.tasks.twins import twins


async def _upload_file(
    source: str | Path, *, credentials: ReplicateCredentials | None = None
) -> File:
    """Upload a file of less than 100 MB, so that a model can read it.

    Files in the input of a model need no call of this: `run_model` uploads them itself.

    Args:
        source: A path, or any URL that fsspec can read: "s3://bucket/key", "memory://x", ....
        credentials: Whose file it is; the default credentials if None.

    Returns:
        The file. `.urls.get` is what goes into a model's input.

    Raises:
        BadInputError: The source cannot be read, or is too big.
    """
    client = await client_for(credentials)
    given = find_source(source) or from_url(str(source))
    with closing(await read(given)) as content:
        return await client.send(calls.files_create(content.upload()))


async def _get_file(file: File | str, *, credentials: ReplicateCredentials | None = None) -> File:
    """Read what is known of an uploaded file, or of its id.

    Raises:
        NotFoundError: There is none, or it has expired.
    """
    client = await client_for(credentials)
    return await client.send(calls.files_get(id_of(file)))


async def _list_files(
    *, most: int = 100, credentials: ReplicateCredentials | None = None
) -> list[File]:
    """List the account's uploaded files, at most so many."""
    client = await client_for(credentials)
    return await client.first(calls.files_list(), most)


async def _delete_file(
    file: File | str, *, credentials: ReplicateCredentials | None = None
) -> None:
    """Delete an uploaded file, or the one of an id.

    Raises:
        NotFoundError: There is none.
    """
    client = await client_for(credentials)
    await client.send(calls.files_delete(id_of(file)))


upload_file, aupload_file = twins(_upload_file, lambda p: f"upload {Path(str(p['source'])).name}")
get_file, aget_file = twins(_get_file, lambda p: f"get file {id_of(p['file'])}")
list_files, alist_files = twins(_list_files, lambda _: "list files")
delete_file, adelete_file = twins(_delete_file, lambda p: f"delete file {id_of(p['file'])}")
