"""A hub on this machine: what publishing and fetching a set asks of one."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

COMMIT = "c0ffee" + "0" * 34


class Hub:
  """Data sets in memory, what was asked, and who may write."""

  def __init__(self, token="a-token"):
    self.files, self.private, self.asked, self.token = {}, {}, [], token
    self.address = ""


class _Handler(http.server.BaseHTTPRequestHandler):
  hub: Hub

  def log_message(self, *_):
    """Says nothing."""

  def _send(self, status, content=b"", **headers):
    if not isinstance(content, bytes):
      content = json.dumps(content).encode()
    self.send_response(status)
    headers.setdefault("Content_Length", len(content))
    for name, value in headers.items():
      self.send_header(name.replace("_", "-"), str(value))
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(content)

  def _body(self):
    return self.rfile.read(int(self.headers.get("Content-Length", 0)))

  def do_POST(self):
    path, body = urllib.parse.urlparse(self.path).path, self._body()
    self.hub.asked.append(f"POST {path}")
    if path == "/api/validate-yaml":
      about = json.loads(body)
      whole = about["repoType"] == "dataset" and "---\n" in about["content"]
      told = {"errors": [], "warnings": []}
      self._send(200 if whole else 400, told)
    elif self.headers.get("Authorization") != f"Bearer {self.hub.token}":
      self._send(401, {"error": "Invalid credentials"})
    elif path == "/api/repos/create":
      about = json.loads(body)
      name = f"{about['organization']}/{about['name']}"
      private = about.get("private") or about.get("visibility") == "private"
      self.hub.private[name] = bool(private)
      self.hub.files.setdefault(name, {})
      self._send(200, {"url": f"{self.hub.address}/datasets/{name}"})
    elif path.endswith("/preupload/main"):
      files = json.loads(body)["files"]
      told = [
        {"path": x["path"], "uploadMode": "regular", "shouldIgnore": False}
        for x in files
      ]
      self._send(200, {"files": told})
    elif "/commit/" in path:
      name = re.match(r"/api/datasets/(.+)/commit/", path)[1]
      for line in map(json.loads, body.splitlines()):
        if line["key"] == "file":
          content = base64.b64decode(line["value"]["content"])
          self.hub.files[name][line["value"]["path"]] = content
      done = {"commitUrl": f"{self.hub.address}/{name}", "commitOid": COMMIT}
      self._send(200, done | {"success": True})
    else:
      self._send(404)

  def do_GET(self):
    path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
    self.hub.asked.append(f"{self.command} {path}")
    about = re.match(
      r"/api/datasets/([^/]+/[^/]+)(/revision/[^/]+|/tree/[^/]+)?$", path
    )
    file = re.match(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
    files = self.hub.files.get((about or file or ["", ""])[1])
    if files is None:
      self._send(404, b"", X_Error_Code="RepoNotFound")
    elif about and "/tree/" in path:
      told = [
        {"type": "file", "path": x, "size": len(content), "oid": _tag(content)}
        for x, content in files.items()
      ]
      self._send(200, told)
    elif about:
      names = [{"rfilename": x} for x in files]
      self._send(200, {"id": about[1], "sha": COMMIT, "siblings": names})
    elif file[2] not in files:
      self._send(404, b"", X_Error_Code="EntryNotFound")
    else:
      content = files[file[2]]
      tag = f'"{_tag(content)}"'
      self._send(200, content, ETag=tag, X_Repo_Commit=COMMIT)

  do_HEAD = do_GET


def _tag(content):
  return hashlib.sha1(content).hexdigest()


@contextlib.contextmanager
def running():
  """A hub that answers while the block runs."""
  hub = Hub()
  handler = type("Handler", (_Handler,), {"hub": hub})
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  hub.address = f"http://127.0.0.1:{server.server_port}"
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  try:
    yield hub
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
