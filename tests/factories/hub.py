"""A local server that speaks the file protocol of the Hugging Face Hub, as far as `huggingface_hub` needs it.

Repositories of data sets with commits and branches, trees, files with ETag and ranges, LFS uploads, and commits as
lines of JSON. Nothing of it is a mock: `huggingface_hub`, `datasets` and `fsspec` talk to it over HTTP as they are.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_LFS = (".parquet", ".tar", ".arrow", ".zip")


@dataclass
class Repository:
    """``commits`` by their SHA: of each path the bytes. ``branches`` lead to one."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], title: str) -> str:
        sha = hashlib.sha1(f"{len(self.commits)} {branch} {sorted(files)}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        self.titles.append(title)
        return sha

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        sha = self.branches.get(revision, revision)
        return (sha, self.commits[sha]) if sha in self.commits else None


@dataclass
class Hub:
    """``repositories`` by ``ORG/NAME``; ``objects`` are the LFS objects that were uploaded, by SHA-256.

    ``requests`` are (method, path). ``dies(method, path)`` is asked of each; where it is true, the connection drops.
    """

    url: str = ""
    token: str = "hf_test"
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    dies: Callable[[str, str], bool] = lambda method, path: False
    stop: threading.Event = field(default_factory=threading.Event)

    def put(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Commit ``files`` as all there is in ``repo``; returns the commit."""
        return self.repositories.setdefault(repo, Repository()).commit(branch, dict(files), "put")

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """What ``repo`` holds."""
        found = self.repositories[repo].files(revision)
        assert found is not None
        return found[1]

    def uploads(self) -> list[str]:
        """The paths of the LFS objects that were sent, one for each time."""
        return [path for method, path in self.requests if method == "PUT"]

    def environment(self, home: Path) -> dict[str, str]:
        """What tells a process that this is the Hub; ``home`` is for its caches."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(home / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "MIMICIT_CACHE": str(home / "mimicit"),
            "NO_PROXY": "127.0.0.1",
        }


def _entry(path: str, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": blob}
    if path.endswith(_LFS):
        entry["oid"] = hashlib.sha1(f"pointer {digest}".encode()).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
    return entry


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub that runs until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.handle_one()

        def do_HEAD(self) -> None:
            self.handle_one()

        def do_POST(self) -> None:
            self.handle_one()

        def do_PUT(self) -> None:
            self.handle_one()

        def handle_one(self) -> None:
            address = urlsplit(self.path)
            path = unquote(address.path)
            hub.requests.append((self.command, path))
            if hub.dies(self.command, path):
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            length = self.headers.get("Content-Length")
            self.sent = self.rfile.read(int(length)) if length else self.chunks()
            self.query = parse_qs(address.query)
            for method, pattern, answer in routes:
                found = re.fullmatch(pattern, address.path)
                if found and self.command in method:
                    answer(self, *map(unquote, found.groups()))
                    return
            self.fail(404, "EntryNotFound", f"no route for {self.command} {path}")

        def chunks(self) -> bytes:
            data = b""
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                while size := int(self.rfile.readline(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            return data

        def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def json(self, value: Any, status: int = 200, **headers: str) -> None:
            self.reply(status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode())

        def fail(self, status: int, code: str, message: str) -> None:
            self.json({"error": message}, status, **{"X-Error-Code": code, "X-Error-Message": message})

        def may_write(self) -> bool:
            if self.headers.get("Authorization") == f"Bearer {hub.token}":
                return True
            self.fail(401, "", "Invalid credentials in Authorization header")
            return False

        def repository(self, repo: str) -> Repository | None:
            found = hub.repositories.get(repo)
            is_owner = self.headers.get("Authorization") == f"Bearer {hub.token}"
            if found is None or (found.private and not is_owner):
                self.fail(401 if not is_owner else 404, "RepoNotFound", "Repository Not Found")
                return None
            return found

        def at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
            repository = self.repository(repo)
            if repository is None:
                return None
            found = repository.files(revision)
            if found is None:
                self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return found

        def create(self) -> None:
            if not self.may_write():
                return
            asked = json.loads(self.sent)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in hub.repositories:
                self.json({"error": "You already created this dataset repo", "url": f"{hub.url}/datasets/{repo}"}, 409)
                return
            made = hub.repositories[repo] = Repository(private=asked.get("visibility") == "private")
            made.commit("main", {".gitattributes": b"*.parquet filter=lfs\n"}, "initial commit")
            self.json({"url": f"{hub.url}/datasets/{repo}", "id": repo})

        def branch(self, repo: str, name: str) -> None:
            if self.may_write() and (repository := self.repository(repo)):
                if name in repository.branches:
                    self.fail(409, "", "Reference already exists")
                    return
                repository.branches[name] = repository.branches["main"]
                self.json({})

        def info(self, repo: str, revision: str = "main") -> None:
            if found := self.at(repo, revision):
                siblings = [{"rfilename": path} for path in sorted(found[1])]
                self.json(
                    {"id": repo, "sha": found[0], "siblings": siblings, "tags": [], "private": False, "downloads": 0}
                )

        def tree(self, repo: str, revision: str, folder: str = "") -> None:
            if not (found := self.at(repo, revision)):
                return
            prefix = f"{folder}/" if folder else ""
            entries: dict[str, dict[str, Any]] = {}
            for path, data in sorted(found[1].items()):
                if not path.startswith(prefix):
                    continue
                steps = path[len(prefix) :].split("/")
                for depth in range(1, len(steps)):
                    inner = prefix + "/".join(steps[:depth])
                    entries[inner] = {"type": "directory", "path": inner, "size": 0, "oid": "0" * 40}
                entries[path] = _entry(path, data)
            if self.query.get("recursive", ["false"])[0].lower() != "true":
                entries = {path: entry for path, entry in entries.items() if "/" not in path[len(prefix) :]}
            if not entries and folder:
                self.fail(404, "EntryNotFound", f"{folder} does not exist")
                return
            self.json(list(entries.values()))

        def paths_info(self, repo: str, revision: str) -> None:
            if not (found := self.at(repo, revision)):
                return
            is_json = self.headers.get("Content-Type", "").startswith("application/json")
            asked = json.loads(self.sent)["paths"] if is_json else parse_qs(self.sent.decode())["paths"]
            entries = []
            for path in asked:
                if path in found[1]:
                    entries.append(_entry(path, found[1][path]))
                elif any(name.startswith(f"{path}/") for name in found[1]):
                    entries.append({"type": "directory", "path": path, "size": 0, "oid": "0" * 40})
            self.json(entries)

        def file(self, repo: str, revision: str, path: str) -> None:
            if not (found := self.at(repo, revision)):
                return
            sha, files = found
            if path not in files:
                self.fail(404, "EntryNotFound", "Entry not found")
                return
            data, entry = files[path], _entry(path, files[path])
            headers = {"ETag": f'"{entry.get("lfs", entry)["oid"]}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
            if "lfs" in entry:
                headers |= {"X-Linked-Etag": f'"{entry["lfs"]["oid"]}"', "X-Linked-Size": str(len(data))}
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted is None:
                self.reply(200, headers, data)
                return
            start, end = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
            if start >= len(data):
                self.reply(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
                return
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            self.reply(206, headers, data[start:end])

        def preupload(self, repo: str, revision: str) -> None:
            if not (self.may_write() and (found := self.at(repo, revision))):
                return
            files = []
            for asked in json.loads(self.sent)["files"]:
                path = asked["path"]
                entry = _entry(path, found[1][path]) if path in found[1] else {}
                mode = "lfs" if path.endswith(_LFS) else "regular"
                oid = entry.get("lfs", entry).get("oid")
                files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self.json({"files": files})

        def batch(self, repo: str) -> None:
            if not (self.may_write() and self.repository(repo)):
                return
            objects = []
            for asked in json.loads(self.sent)["objects"]:
                answer = {"oid": asked["oid"], "size": asked["size"]}
                if asked["oid"] not in hub.objects:
                    answer["actions"] = {"upload": {"href": f"{hub.url}/lfs/{asked['oid']}"}}
                objects.append(answer)
            self.json({"transfer": "basic", "objects": objects})

        def upload(self, digest: str) -> None:
            if hashlib.sha256(self.sent).hexdigest() != digest:
                self.fail(400, "", "the bytes are not those of the checksum")
                return
            hub.objects[digest] = self.sent
            self.reply(200, {}, b"")

        def commit(self, repo: str, branch: str) -> None:
            if not (self.may_write() and (found := self.at(repo, branch))):
                return
            files, title = dict(found[1]), ""
            for line in self.sent.splitlines():
                key, value = (step := json.loads(line))["key"], step["value"]
                match key:
                    case "header":
                        title = value["summary"]
                    case "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    case "lfsFile":
                        if value["oid"] not in hub.objects:
                            self.fail(400, "", f"{value['path']}: its LFS object was not uploaded")
                            return
                        files[value["path"]] = hub.objects[value["oid"]]
                    case "deletedFile":
                        if files.pop(value["path"], None) is None:
                            self.fail(404, "EntryNotFound", "A file with this name doesn't exist")
                            return
            sha = hub.repositories[repo].commit(branch, files, title)
            address = f"{hub.url}/datasets/{repo}/commit/{sha}"
            self.json({"success": True, "commitOid": sha, "commitUrl": address, "pullRequestUrl": None})

        def validate(self) -> None:
            content = json.loads(self.sent)["content"]
            if not content.startswith("---\n"):
                self.json({"errors": [{"message": "no metadata"}], "warnings": []}, 400)
                return
            self.json({"errors": [], "warnings": []})

    repo = r"([^/]+/[^/]+)"
    routes: list[tuple[tuple[str, ...], str, Callable[..., None]]] = [
        (("POST",), r"/api/repos/create", Handler.create),
        (("POST",), r"/api/validate-yaml", Handler.validate),
        (("POST",), rf"/api/datasets/{repo}/branch/([^/]+)", Handler.branch),
        (("POST",), rf"/api/datasets/{repo}/preupload/([^/]+)", Handler.preupload),
        (("POST",), rf"/api/datasets/{repo}/commit/([^/]+)", Handler.commit),
        (("POST",), rf"/api/datasets/{repo}/paths-info/([^/]+)", Handler.paths_info),
        (("GET",), rf"/api/datasets/{repo}/revision/([^/]+)", Handler.info),
        (("GET",), rf"/api/datasets/{repo}/tree/([^/]+)/(.+)", Handler.tree),
        (("GET",), rf"/api/datasets/{repo}/tree/([^/]+)", Handler.tree),
        (("GET",), rf"/api/datasets/{repo}", Handler.info),
        (("POST",), rf"/datasets/{repo}\.git/info/lfs/objects/batch", Handler.batch),
        (("PUT",), r"/lfs/([0-9a-f]{64})", Handler.upload),
        (("GET", "HEAD"), rf"/datasets/{repo}/resolve/([^/]+)/(.+)", Handler.file),
    ]

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # connections that the client drops in the middle

    server = Server(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
