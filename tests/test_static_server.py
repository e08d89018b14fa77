# SPDX-License-Identifier: MIT OR Apache-2.0
"""The static file server in docs/examples, as a program of its own: HTTP, and many clients."""

from __future__ import annotations

import os
import shutil
import subprocess
from http import HTTPStatus
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import trio
from example_help import EXAMPLES, LIMIT_S, Client, Example, reset, started

import trio_uring
from trio_uring.testing import requires_direct_descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("h11", reason="the static file server needs h11")
pytestmark = requires_direct_descriptors()
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

CLIENTS = 200
REFUSED = f"416 {HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE.phrase}\n".encode()
ODD_NAME = 'a <b> & "c".txt'


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports an example by its name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return import_module


# -- Driven by curl ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of files, and next to it what nobody may see."""
    parent = tmp_path_factory.mktemp("site")
    (parent / "secret.txt").write_text("secret")
    root = parent / "root"
    (root / "pages").mkdir(parents=True)
    (root / "pages" / "index.html").write_text("<p>Grüße</p>")
    (root / "files" / "inner").mkdir(parents=True)
    (root / "files" / ODD_NAME).write_text("0123456789")
    (root / "files" / "archive.tar.gz").write_bytes(b"\x1f\x8b")
    (root / "small.txt").write_bytes(os.urandom(100))
    (root / "large.bin").write_bytes(os.urandom(300_000))
    with (root / "huge.bin").open("wb") as huge:
        huge.truncate(1 << 30)
    (root / "inside").symlink_to("small.txt")
    (root / "outside").symlink_to("../secret.txt")
    (root / "up").symlink_to("..")
    os.mkfifo(root / "fifo")
    return root


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[Example]:
    with started("static_server.py", site, "--port", 0) as example:
        yield example
        assert example.interrupt() == 0
        assert example.errors() == ""


class Answer:
    """What curl got."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {
            name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])
        }


def curl(url: str, *options: str) -> Answer:
    found = subprocess.run(
        ["curl", "-si", "--path-as-is", *options, url], stdout=subprocess.PIPE, timeout=LIMIT_S
    )
    assert found.returncode == 0, f"curl ended with {found.returncode}"
    return Answer(found.stdout)


@needs_curl
def test_a_file_comes_with_its_type_and_as_it_is(server: Example, site: Path) -> None:
    """GET has the bytes of the file; HEAD has the same headers and no bytes."""
    got = curl(f"{server.url}/large.bin")
    head = curl(f"{server.url}/large.bin", "--head")

    assert (got.status, head.status) == (200, 200)
    assert got.body == (site / "large.bin").read_bytes()
    assert head.body == b""
    ignored = ("date", "")
    assert [h for h in head.headers.items() if h[0] not in ignored] == [
        h for h in got.headers.items() if h[0] not in ignored
    ]
    assert got.headers["content-type"] == "application/octet-stream"
    assert curl(f"{server.url}/small.txt").headers["content-type"] == "text/plain; charset=utf-8"
    archive = curl(f"{server.url}/files/archive.tar.gz")
    assert archive.headers["content-type"] == "application/gzip"
    assert "content-encoding" not in archive.headers


@needs_curl
@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=5-99", 206, b"56789", "bytes 5-9/10"),
        ("bytes=10-", 416, REFUSED, "bytes */10"),
        ("bytes=-0", 416, REFUSED, "bytes */10"),
        ("bytes=4-2", 200, b"0123456789", None),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
    ],
)
def test_a_range_is_served_refused_or_ignored(
    server: Example, asked: str, status: int, body: bytes, content_range: str | None
) -> None:
    """RFC 9110, section 14: one range, counted from either end; several are answered with all."""
    url = f"{server.url}/files/{quote(ODD_NAME)}"

    answer = curl(url, "-H", f"Range: {asked}")

    assert (answer.status, answer.body) == (status, body)
    assert answer.headers.get("content-range") == content_range


@needs_curl
def test_what_the_client_has_already_is_not_sent_again(server: Example) -> None:
    """If-None-Match before If-Modified-Since; If-Range with another tag gets the whole file."""
    url = f"{server.url}/small.txt"
    first = curl(url)
    tag, modified = first.headers["etag"], first.headers["last-modified"]
    long_ago = "Thu, 01 Jan 1970 00:00:00 GMT"

    known = curl(url, "-H", f'If-None-Match: "other", W/{tag}')
    unchanged = curl(url, "-H", f"If-Modified-Since: {modified}")

    assert (known.status, known.body, known.headers["etag"]) == (304, b"", tag)
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert curl(url, "-H", f"If-Modified-Since: {long_ago}").status == 200
    assert curl(url, "-H", "If-Modified-Since: yesterday").status == 200
    both = ("-H", 'If-None-Match: "other"', "-H", f"If-Modified-Since: {modified}")
    assert curl(url, *both).status == 200
    assert curl(url, "-H", "Range: bytes=0-1", "-H", f"If-Range: {tag}").status == 206
    assert curl(url, "-H", "Range: bytes=0-1", "-H", 'If-Range: "other"').status == 200


@needs_curl
def test_a_directory_is_its_index_or_a_list_of_escaped_names(server: Example) -> None:
    """Without the slash at its end it is redirected, and never to another host."""
    index = curl(f"{server.url}/pages/")
    listing = curl(f"{server.url}/files/")

    assert index.body.decode() == "<p>Grüße</p>"
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    link = f'<a href="./{quote(ODD_NAME)}">a &lt;b&gt; &amp; &quot;c&quot;.txt</a>'
    assert link in listing.body.decode()
    assert '<a href="./inner/">inner/</a>' in listing.body.decode()
    for path in ("/files", "//files"):
        answer = curl(f"{server.url}{path}")
        assert (answer.status, answer.headers["location"]) == (301, "/files/")


@needs_curl
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/small.txt/", 404),
        ("/nothing/", 404),
        (f"/{'x' * 300}", 404),
        ("/fifo", 403),
        ("/%00", 400),
        ("/../secret.txt", 403),
        ("/pages/../../secret.txt", 403),
        ("/%2e%2e/secret.txt", 403),
        ("/..%2fsecret.txt", 403),
        ("/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc/passwd", 403),
        ("//etc/passwd", 404),
        ("/outside", 403),
        ("/up/secret.txt", 403),
        ("/up/root/small.txt", 200),
        ("/inside", 200),
    ],
)
def test_no_path_leads_out_of_the_root(server: Example, path: str, status: int) -> None:
    """Neither dots nor escaped dots nor symlinks; a symlink that comes back may be used."""
    answer = curl(server.url + path)

    assert answer.status == status
    assert b"secret" not in answer.body


@needs_curl
def test_other_methods_are_refused_with_the_names_of_those_that_are_not(server: Example) -> None:
    """405 has an Allow header; the connection ends, because the body was not read."""
    answer = curl(f"{server.url}/small.txt", "-X", "PUT", "-d", "a=b")

    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert answer.headers["connection"] == "close"


@needs_curl
def test_two_requests_of_one_client_share_a_connection(server: Example) -> None:
    """curl connects for the first URL and not for the second."""
    urls = [f"{server.url}/small.txt", f"{server.url}/large.bin"]
    output = ["-o", os.devnull, "-o", os.devnull, "-w", "%{http_code} %{num_connects}\n"]

    found = subprocess.run(["curl", "-s", *output, *urls], capture_output=True, text=True)

    assert found.stdout == "200 1\n200 0\n"


# -- Driven by many clients, and by rude ones --------------------------------------------------


async def test_pipelined_requests_are_answered_in_order(server: Example, site: Path) -> None:
    """Three requests in one segment, the last one broken: 200, 200, 400, end."""
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        client = Client(stream)
        request = "GET /{} HTTP/1.1\r\nHost: test\r\n\r\n"
        await stream.send_all(
            f"{request.format('large.bin')}{request.format('small.txt')}nonsense\r\n\r\n".encode()
        )
        with trio.fail_after(LIMIT_S):
            answers = [await client.answer() for _ in range(3)]
            end = await stream.receive_some(1)

    assert [status for status, _ in answers] == [200, 200, 400]
    assert answers[0][1] == (site / "large.bin").read_bytes()
    assert answers[1][1] == (site / "small.txt").read_bytes()
    assert end == b""


async def test_a_response_arrives_although_the_request_was_not_read_to_its_end(
    server: Example,
) -> None:
    """A client that first sends a megabyte and then looks finds an answer, and no reset."""
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        head = f"PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: {1 << 20}\r\n\r\n"
        with trio.fail_after(LIMIT_S):
            await stream.send_all(head.encode() + bytes(1 << 20))
            status, _ = await Client(stream).answer()

    assert status == 405


@pytest.mark.parametrize("said", [b"", b"GET / HTT", b"GET /huge.bin HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_a_client_that_is_too_slow_loses_its_connection(
    example: Any, site: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """It says nothing, or half a request, or does not take the response."""
    static_server = example("static_server")
    for name in ("REQUEST_TIMEOUT_S", "SEND_TIMEOUT_S", "LINGER_TIMEOUT_S"):
        monkeypatch.setattr(static_server, name, 0.05)
    room = trio.Semaphore(0)
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        await theirs.send(said)
        with trio.fail_after(LIMIT_S):
            async with await trio_uring.register(ours) as connection:
                await static_server.serve_connection(connection, site, room)

    assert room.value == 1


async def visit(example: Example, contents: dict[str, bytes], number: int = 0) -> int:
    """Asks for each file on one connection; returns how many came with every byte."""
    right = 0
    async with await trio.open_tcp_stream("127.0.0.1", example.port) as stream:
        client = Client(stream)
        names = list(contents)
        for turn in range(len(names)):
            name = names[(number + turn) % len(names)]
            await client.ask(f"/{name}")
            status, body = await client.answer()
            right += status == 200 and body == contents[name]
    return right


async def leave_in_the_middle(example: Example, number: int) -> None:
    """Takes a part of a response that does not end, and hangs up in one way or the other."""
    stream = await trio.open_tcp_stream("127.0.0.1", example.port)
    async with stream:
        await Client(stream).ask("/huge.bin")
        for _ in range(number % 8):
            await stream.receive_some(65536)
        if number % 2:
            reset(stream)


@pytest.fixture
def contents(site: Path) -> dict[str, bytes]:
    """What the clients fetch."""
    return {name: (site / name).read_bytes() for name in ("small.txt", "large.bin")}


async def test_clients_that_hang_up_in_the_middle_cost_the_others_nothing(
    site: Path, contents: dict[str, bytes]
) -> None:
    """Of 200 clients half hang up in a response: all others get every byte, no slot stays taken,
    and after Ctrl-C the port is free at once."""
    right: list[int] = []

    async def be_client(number: int) -> None:
        if number % 2:
            await leave_in_the_middle(busy, number // 2)
        else:
            right.append(await visit(busy, contents, number // 2))

    with started("static_server.py", site, "--port", 0) as busy:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                for number in range(CLIENTS):
                    nursery.start_soon(be_client, number)
        await busy.only_the_listener_is_left()

        assert right == [len(contents)] * (CLIENTS // 2)
        assert await visit(busy, contents) == len(contents)

        async with await trio.open_tcp_stream("127.0.0.1", busy.port) as idle:
            await Client(idle).ask("/huge.bin")
            await idle.receive_some(1)
            assert busy.interrupt() in (0, 130)
        assert busy.errors() == ""
        with started("static_server.py", site, "--port", busy.port) as next_server:
            assert await visit(next_server, contents) == len(contents)
            assert next_server.interrupt() in (0, 130)


async def test_a_table_of_eight_slots_serves_two_hundred_clients(
    site: Path, contents: dict[str, bytes]
) -> None:
    """They wait for their turn in the backlog; nobody is reset and every byte is right."""
    right: list[int] = []

    async def be_client(number: int) -> None:
        right.append(await visit(tiny, contents, number))

    with started("static_server.py", site, "--port", 0, "--slots", 8) as tiny:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                for number in range(CLIENTS):
                    nursery.start_soon(be_client, number)
        await tiny.only_the_listener_is_left()

        assert right == [len(contents)] * CLIENTS
        assert tiny.interrupt() in (0, 130)
        assert tiny.errors() == ""
