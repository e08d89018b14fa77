# SPDX-License-Identifier: MIT OR Apache-2.0
"""What static_server.py answers: HTTP semantics (RFC 9110) without any I/O."""

from __future__ import annotations

import errno
import html
import mimetypes
import os
import re
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes, urlsplit

import attrs

if TYPE_CHECKING:
    import h11

    import trio_uring

STATUS_OF_ERROR = {
    errno.ENOENT: HTTPStatus.NOT_FOUND,
    errno.ENOTDIR: HTTPStatus.NOT_FOUND,
    errno.ENAMETOOLONG: HTTPStatus.NOT_FOUND,
    errno.ELOOP: HTTPStatus.NOT_FOUND,
    errno.EACCES: HTTPStatus.FORBIDDEN,
    errno.EPERM: HTTPStatus.FORBIDDEN,
}

# What the system's own tables may lack, and sources that a browser would not show.
mimetypes.add_type("text/markdown", ".md")
for suffix in (".rst", ".py", ".toml"):
    mimetypes.add_type("text/plain", suffix)


@attrs.frozen
class Response:
    """What to send: a text, or the part of a file."""

    status: HTTPStatus
    headers: dict[str, str]
    text: bytes = b""
    file: trio_uring.FixedFile | None = None
    part: range = range(0)

    def without_body(self) -> Response:
        """The response to HEAD instead of GET."""
        return attrs.evolve(self, text=b"", part=range(0))


def text_response(
    status: HTTPStatus, text: str = "", kind: str = "text/plain", **headers: str
) -> Response:
    """A text of our own; without one, what the status means."""
    data = (text or f"{status.value} {status.phrase}\n").encode()
    headers |= {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(data))}
    return Response(status, headers, data)


def error_response(error: OSError | ValueError) -> Response:
    """Why there is no file."""
    if isinstance(error, OSError):
        return text_response(
            STATUS_OF_ERROR.get(error.errno or 0, HTTPStatus.INTERNAL_SERVER_ERROR)
        )
    return text_response(HTTPStatus.BAD_REQUEST)


def redirection(path: str) -> Response:
    """The file has another path."""
    return text_response(HTTPStatus.MOVED_PERMANENTLY, Location=quote(os.fsencode(path)))


def directory_response(path: str, names: list[str]) -> Response:
    """A page with links to the files of a directory."""
    title = f"Index of {shown(path)}"
    if path != "/":
        names = ["../", *names]
    links = [f'<li><a href="./{quote(os.fsencode(n))}">{shown(n)}</a></li>' for n in names]
    page = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>',
        f"<body><h1>{title}</h1><ul>",
        *links,
        "</ul></body></html>",
    ]
    return text_response(HTTPStatus.OK, "\n".join(page), "text/html")


def shown(name: str) -> str:
    """A file name for people to read in a page; it may be no text at all."""
    return html.escape(os.fsencode(name).decode(errors="replace"))


def path_of(target: bytes) -> str:
    """The path that a request asks for, with one slash at the beginning.

    Raises:
        ValueError: it is no path.
        PermissionError: it has a part ``..``; those that are harmless are resolved by the client.
    """
    if not target.startswith(b"/"):  # A whole URL, as proxies are asked.
        url = urlsplit(target)
        if url.scheme not in {b"http", b"https"}:
            raise ValueError("neither a path nor a URL")
        target = url.path
    path = os.fsdecode(unquote_to_bytes(target.partition(b"?")[0]))
    if "\0" in path:
        raise ValueError("no file name has a null byte")
    if ".." in path.split("/"):
        raise PermissionError(errno.EACCES, "outside of the root")
    # With two slashes it would be the name of a host, once it is sent back in a redirection.
    return f"/{path.lstrip('/')}"


def file_response(
    request: h11.Request, name: str, file: trio_uring.FixedFile, status: os.stat_result
) -> Response:
    """All of a file, the part that was asked for, or nothing if the client has it already."""
    asked = {header: value.decode("latin-1") for header, value in request.headers}
    size = status.st_size
    tag = f'"{status.st_mtime_ns:x}-{size:x}"'
    modified = formatdate(status.st_mtime, usegmt=True)
    headers = {"ETag": tag, "Last-Modified": modified, "Accept-Ranges": "bytes"}
    if is_known(asked, tag, status.st_mtime):
        return Response(HTTPStatus.NOT_MODIFIED, headers)

    part = None
    if request.method == b"GET" and asked.get(b"if-range", tag) in {tag, modified}:
        part = part_of(asked.get(b"range", ""), size)
    if part is None:
        code, part = HTTPStatus.OK, range(size)
    elif part:
        code = HTTPStatus.PARTIAL_CONTENT
        headers["Content-Range"] = f"bytes {part[0]}-{part[-1]}/{size}"
    else:
        code = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        return text_response(code, **{"Content-Range": f"bytes */{size}"})
    headers |= {"Content-Type": content_type(name), "Content-Length": str(len(part))}
    return Response(code, headers, file=file, part=part)


def is_known(asked: dict[bytes, str], tag: str, modified: float) -> bool:
    """Whether the client says that it has the file as it is: RFC 9110, section 13."""
    if (tags := asked.get(b"if-none-match")) is not None:
        return tags.strip() == "*" or tag in re.findall(r'"[^"]*"', tags)
    try:
        return int(modified) <= parsedate_to_datetime(asked[b"if-modified-since"]).timestamp()
    except (KeyError, ValueError):
        return False


def part_of(value: str, size: int) -> range | None:
    """The part of a file that a Range header asks for: RFC 9110, section 14.

    Empty if the file has no such part. None if all of the file is to be sent: there is no such
    header, it asks for several parts, or for none that makes sense.
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", value.strip(), re.ASCII | re.IGNORECASE)
    if match is None:
        return None
    first, last = match.groups()
    if not first:  # The last so many bytes.
        return range(max(size - int(last), 0), size) if last else None
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size) if last else size)


def content_type(name: str) -> str:
    """The Content-Type that goes with a file name."""
    kind, encoding = mimetypes.guess_type(name)
    if encoding is not None:  # Sent as it is, and not to be unpacked on the way.
        return f"application/{encoding}"
    if kind is None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
