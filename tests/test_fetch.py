"""Downloading known traces, from a server here that can fail in many ways."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import kvsim.traces.fetch as fetching
from kvsim.errors import InputError
from kvsim.traces.fetch import Known, fetch, known

CONTENT = bytes(range(256)) * 1000
SHARED = Path(__file__).resolve().parents[2] / "shared" / "traces"


@dataclass
class Server:
    """What the server holds, how it behaves, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    status: int = 200
    takes_ranges: bool = True
    breaks_after: int | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    listener = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    state.url = f"http://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    listener.shutdown()
    thread.join()
    listener.server_close()


def handler(state: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            start = int(wanted.split("=")[1].rstrip("-")) if wanted and state.takes_ranges else 0
            status = 206 if start and state.status == 200 else state.status
            body = state.content[start:]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.breaks_after])

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    return Handler


@pytest.fixture(autouse=True)
def one_small_trace(monkeypatch: pytest.MonkeyPatch) -> Known:
    trace = Known(
        name="small",
        about="a small trace",
        repository="someone/traces",
        commit="c0ffee",
        path="data/small.csv",
        licence="MIT",
        cite="Someone",
        bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    monkeypatch.setattr(fetching, "known", lambda: {"small": trace})
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("KVSIM_FETCH_BASE_URL", raising=False)
    return trace


def test_a_trace_is_downloaded_whole(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    path = fetch("small", tmp_path / "new", server.url, lambda done, size: seen.append((done, size)))

    assert path == tmp_path / "new" / "small.csv"
    assert path.read_bytes() == CONTENT
    assert server.asked == [("/someone/traces/c0ffee/data/small.csv", None)]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [p.name for p in path.parent.iterdir()] == ["small.csv"]


def test_a_broken_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.breaks_after = 100_000
    with pytest.raises(InputError, match=r"broke off after 100,000 of 256,000 bytes; run the command again"):
        fetch("small", tmp_path, server.url)
    assert (tmp_path / "small.csv.part").stat().st_size == 100_000
    server.breaks_after = None

    path = fetch("small", tmp_path, server.url)

    assert path.read_bytes() == CONTENT
    assert server.asked[1][1] == "bytes=100000-"


def test_a_server_without_ranges_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "small.csv.part").write_bytes(b"x" * 5)
    server.takes_ranges = False

    assert fetch("small", tmp_path, server.url).read_bytes() == CONTENT


@pytest.mark.parametrize("rest", [0, 7], ids=["whole", "too long"])
def test_a_part_that_needs_no_more_bytes_is_only_checked(server: Server, tmp_path: Path, rest: int) -> None:
    (tmp_path / "small.csv.part").write_bytes(CONTENT + b"x" * rest)

    assert fetch("small", tmp_path, server.url).read_bytes() == CONTENT
    assert server.asked == ([] if rest == 0 else [("/someone/traces/c0ffee/data/small.csv", None)])


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"!", CONTENT + b"more"], ids=["changed", "longer"])
def test_a_corrupt_download_is_deleted_and_said(server: Server, tmp_path: Path, content: bytes) -> None:
    server.content = content

    with pytest.raises(
        InputError, match=r"is not small: its sha256 is [0-9a-f]{64}, not [0-9a-f]{64}; it was"
    ):
        fetch("small", tmp_path, server.url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [404, 500, 416])
def test_an_error_answer_says_what_to_do_by_hand(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status

    with pytest.raises(InputError) as caught:
        fetch("small", tmp_path, server.url)
    address = "https://raw.githubusercontent.com/someone/traces/c0ffee/data/small.csv"
    assert f"answers {status}" in str(caught.value)
    assert f"by hand: download {address} and put it at {tmp_path / 'small.csv'}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_part_the_server_has_no_bytes_after_is_dropped(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "small.csv.part"
    part.write_bytes(b"x" * 5)
    server.status = 416

    with pytest.raises(InputError, match="answers 416"):
        fetch("small", tmp_path, server.url)
    assert not part.exists()


def test_without_a_network_one_line_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

        with pytest.raises(InputError, match=r"cannot reach .*; by hand: download https://raw\.") as caught:
            fetch("small", tmp_path, url)
    assert "\n" not in str(caught.value)


def test_a_file_already_there_is_not_downloaded_again(tmp_path: Path) -> None:
    (tmp_path / "small.csv").write_bytes(CONTENT)

    assert fetch("small", tmp_path, "http://127.0.0.1:1") == tmp_path / "small.csv"


def test_another_file_of_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "small.csv").write_bytes(b"mine")

    with pytest.raises(InputError, match=r"small\.csv exists and is not small .*move it away"):
        fetch("small", tmp_path, "http://127.0.0.1:1")
    assert (tmp_path / "small.csv").read_bytes() == b"mine"


def test_the_environment_names_a_mirror(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVSIM_FETCH_BASE_URL", server.url + "/mirror/")

    fetch("small", tmp_path)

    assert server.asked[0][0] == "/mirror/someone/traces/c0ffee/data/small.csv"


def test_a_folder_that_cannot_be_made_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(InputError, match=r"cannot write .*file"):
        fetch("small", tmp_path / "file" / "below", server.url)


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot download from nowhere"):
        fetch("small", tmp_path, "nowhere")


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown trace 'smal' \(did you mean 'small'\?\); known: small"):
        fetch("smal")


@pytest.mark.parametrize("trace", known().values(), ids=lambda trace: trace.name)
def test_every_known_trace_is_pinned(trace: Known) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", trace.commit)
    assert re.fullmatch(r"[0-9a-f]{64}", trace.sha256)
    assert trace.address().startswith(f"https://raw.githubusercontent.com/{trace.repository}/{trace.commit}/")


@pytest.mark.shared
@pytest.mark.parametrize("trace", known().values(), ids=lambda trace: trace.name)
def test_hashes_are_those_of_the_published_files(trace: Known) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"the shared traces are not at {SHARED}")

    (path,) = SHARED.rglob(trace.file_name)
    assert path.stat().st_size == trace.bytes
    assert hashlib.sha256(path.read_bytes()).hexdigest() == trace.sha256
