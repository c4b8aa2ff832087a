"""A hub on loopback: the part of the Hugging Face hub's protocol that fetching a data set uses, and its failures.

Large files answer as on the hub: a redirect to another address, with their size and SHA-256 in headers of their own.
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

# Files from this size on are stored apart, as the hub does with all binary files.
LARGE_BYTES = 4_000


class Request(NamedTuple):
    method: str
    path: str
    range: str | None
    authorization: str | None


class HubServer:
    """Serves data set repositories of one commit each.

    Attributes:
        repos: files by path, by the repository's name.
        commits: the commit of each repository.
        asked: every request, in order.
        cut_after: files whose answers end after so many bytes, without a word.
        garbled: files that arrive with a wrong last byte.
        whole: files that are sent from their first byte, whatever range is asked for.
        refused: repositories that ask for an account.
        release: what a stalled answer waits for.
        stalled: set when an answer has stalled.
    """

    def __init__(self):
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, str] = {}
        self.asked: list[Request] = []
        self.cut_after: dict[str, int] = {}
        self.stall_after: dict[str, int] = {}
        self.garbled: set[str] = set()
        self.whole: set[str] = set()
        self.refused: set[str] = set()
        self.release, self.stalled = threading.Event(), threading.Event()
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def publish(self, repo: str, files: dict[str, bytes]) -> str:
        """Make a commit of a repository; return its hash."""
        self.repos[repo] = dict(files)
        self.commits[repo] = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        return self.commits[repo]

    def downloads(self) -> list[tuple[str, str | None]]:
        """List the bodies that were asked for, by file name, with the range."""
        return [
            (request.path.rpartition("/")[2], request.range)
            for request in self.asked
            if request.method == "GET" and "/resolve/" in request.path
        ]

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def log_message(self, *_):
        pass

    def answer(self):
        hub = self.server_hub
        path = unquote(urlsplit(self.path).path)
        hub.asked.append(Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization")))
        kind, *parts = path.strip("/").split("/")
        if kind == "api":
            self.list_files("/".join(parts[1:3]), parts[-1])
            return
        if kind == "cdn":
            self.send_content(self.by_hash(parts[0]), parts[1])
            return
        owner, name, _, revision, *rest = parts
        self.resolve(f"{owner}/{name}", revision, "/".join(rest))

    def list_files(self, repo, revision):
        hub = self.server_hub
        if repo in hub.refused:
            self.fail(403, "GatedRepo")
        elif repo not in hub.repos:
            self.fail(404, "RepoNotFound")
        elif revision not in ("main", hub.commits[repo]):
            self.fail(404, "RevisionNotFound")
        else:
            siblings = [listed(path, content) for path, content in hub.repos[repo].items()]
            self.send_body(json.dumps({"id": repo, "sha": hub.commits[repo], "siblings": siblings}).encode())

    def resolve(self, repo, revision, path):
        hub = self.server_hub
        content = hub.repos.get(repo, {}).get(path)
        if content is None or revision != hub.commits[repo]:
            self.fail(404, "EntryNotFound")
            return
        headers = {"X-Repo-Commit": revision}
        if len(content) < LARGE_BYTES:
            self.send_content(content, path.rpartition("/")[2], {**headers, "ETag": f'"{git_name(content)}"'})
            return
        digest = hashlib.sha256(content).hexdigest()
        self.send_response(302)
        self.send_header("Location", f"{hub.url}/cdn/{digest}/{path.rpartition('/')[2]}")
        for name, value in {
            **headers,
            "X-Linked-Size": str(len(content)),
            "X-Linked-ETag": f'"{digest}"',
            "Content-Length": "0",
        }.items():
            self.send_header(name, value)
        self.end_headers()

    def by_hash(self, digest):
        contents = [content for files in self.server_hub.repos.values() for content in files.values()]
        return next(content for content in contents if hashlib.sha256(content).hexdigest() == digest)

    def send_content(self, content, name, headers=None):
        hub = self.server_hub
        if name in hub.garbled:
            content = content[:-1] + bytes([content[-1] ^ 1])
        asked = None if name in hub.whole else self.headers.get("Range")
        first = int((asked or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = hub.cut_after.get(name)
        stall = hub.stall_after.get(name)
        if stall is not None and first < stall:
            self.wfile.write(content[first:stall])
            self.wfile.flush()
            hub.stalled.set()
            hub.release.wait()
            self.close_connection = True
        elif stop is not None:
            self.wfile.write(content[first:stop])
            self.close_connection = True
        else:
            self.wfile.write(content[first:])

    def send_body(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def fail(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"{code} it is")
        self.send_header("Content-Length", "0")
        self.end_headers()


def git_name(content: bytes) -> str:
    return hashlib.sha1(b"blob " + str(len(content)).encode() + b"\0" + content).hexdigest()


def listed(path: str, content: bytes) -> dict:
    entry = {"rfilename": path, "size": len(content), "blobId": git_name(content)}
    if len(content) >= LARGE_BYTES:
        entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry
