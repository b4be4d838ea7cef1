"""Attacks on `dinodeploy serve`, for `serve_attack.py`: what a hostile client sends, again and again.

Each attack is a function of the port that sends one hostile request, and how many threads call it at the same
time. Errors of the connection are expected: the service closes what it does not want.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from PIL import Image

HOST = "127.0.0.1"
SIDE = 7000  # 49 megapixels, just below the limit of the service
SECONDS = 60.0  # that a hostile client waits for an answer
FORM = "multipart/form-data; boundary=b"
JPEG = "image/jpeg"
JSON = "application/json"
HALF = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"


def post(
    port: int,
    path: str,
    body: bytes,
    kind: str = JPEG,
    headers: dict[str, str] | None = None,
    read: bool = True,
) -> None:
    connection = http.client.HTTPConnection(HOST, port, timeout=SECONDS)
    try:
        connection.request("POST", path, body, {"Content-Type": kind, **(headers or {})})
        answer = connection.getresponse()
        if read:
            while answer.read(1 << 20):
                continue
        else:
            time.sleep(5)
    finally:
        connection.close()


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@cache
def scans(count: int) -> bytes:
    """A progressive JPEG with `count` more scans than its encoder wrote."""
    data = encode(Image.new("L", (SIDE, SIDE), 127), "JPEG", progressive=True, quality=5)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + b"\xff\xd9"


@cache
def bomb(format: str, mode: str = "RGB") -> bytes:
    options = {"WEBP": {"lossless": True}, "TIFF": {"compression": "tiff_adobe_deflate"}}
    return encode(Image.new(mode, (SIDE, SIDE), 127), format, **options.get(format, {}))


@cache
def small() -> bytes:
    return encode(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")


@cache
def form(images: int) -> bytes:
    part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n' + small() + b"\r\n"
    return part * images + b"--b--\r\n"


@cache
def many_json(item: bytes, count: int) -> bytes:
    return b'{"images":[' + b",".join([item] * count) + b"]}"


@cache
def chunked_png() -> bytes:
    data = encode(Image.new("RGB", (8, 8)), "PNG")
    chunk = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return data[:33] + chunk * 2_000_000 + data[33:]


def mutated(port: int) -> None:
    """Images with some bytes changed: decoders that crash are part of the attack."""
    rng = random.Random()
    for format in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "AVIF", "JPEG2000"):
        data = bytearray(encode(Image.effect_noise((64, 64), 50).convert("RGB"), format))
        for _ in range(8):
            data[rng.randrange(len(data))] = rng.randrange(256)
        post(port, "/embed", bytes(data))


def hold(port: int, sent: bytes, drip: bytes = b"", connections: int = 300, seconds: float = 8) -> None:
    """Many connections that send this, and then almost nothing."""
    opened = []
    try:
        for _ in range(connections):
            with contextlib.suppress(OSError):
                one = socket.create_connection((HOST, port), 2)
                opened.append(one)
                one.sendall(sent)
        until = time.monotonic() + seconds
        while opened and time.monotonic() < until:
            for one in opened:
                with contextlib.suppress(OSError):
                    one.sendall(drip)
            time.sleep(0.5)
    finally:
        for one in opened:
            one.close()


def raw(port: int, data: bytes, read: bool = True) -> None:
    with socket.create_connection((HOST, port), 5) as connection:
        connection.sendall(data)
        while read and connection.recv(1 << 16):
            continue


def endless(port: int) -> None:
    """A chunked body without an end."""
    with socket.create_connection((HOST, port), 5) as connection:
        connection.sendall(HALF + b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


def urls(port: int) -> None:
    hosts = ("localhost", "[64:ff9b::7f00:1]", "[::ffff:7f00:1]", "10.0.0.1", "[fec0::1]", "nowhere.invalid")
    body = {"images": [{"url": f"https://{host}/{number}"} for host in hosts for number in range(10)]}
    post(port, "/embed", json.dumps(body).encode(), JSON)


def foreign_hosts(port: int) -> None:
    for path in ("/embed/", "/thumbnail?id=x", "/model", "/"):
        raw(port, f"GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".encode())


def unread(port: int) -> None:
    """Large answers, asked for again and again over one connection and never read."""
    head = (
        f"POST /embed?outputs=patch&encoding=base64 HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n"
        f"Content-Length: {len(form(16))}\r\n\r\n"
    )
    hold(port, head.encode() + form(16), connections=30)


@dataclass(frozen=True)
class Attack:
    """send: one hostile request; threads: how many send at the same time. row: what it stands for."""

    send: Callable[[int], None]
    threads: int = 8


BIG = 31 << 20
ATTACKS: dict[str, Attack] = {
    # images that cost much
    "scans": Attack(lambda port: post(port, "/embed", scans(200))),
    "scans at the limit": Attack(lambda port: post(port, "/embed", scans(90))),
    "transparent PNG bomb": Attack(lambda port: post(port, "/embed", bomb("PNG", "RGBA"))),
    "WebP bomb": Attack(lambda port: post(port, "/embed", bomb("WEBP"))),
    "JPEG 2000 bomb": Attack(lambda port: post(port, "/embed", bomb("JPEG2000"))),
    "PNG chunks": Attack(lambda port: post(port, "/embed", chunked_png())),
    "mutated images": Attack(mutated),
    # bodies
    "JSON numbers": Attack(lambda port: post(port, "/embed", many_json(b"1", 1_000_000), JSON)),
    "JSON objects": Attack(lambda port: post(port, "/embed", many_json(b"{}", 8_000_000), JSON), 4),
    "base64 of 30 MiB": Attack(
        lambda port: post(port, "/embed", b'{"images":[{"base64":"' + b"A" * BIG + b'"}]}', JSON), 4
    ),
    "bodies to /health": Attack(lambda port: post(port, "/health", bytes(BIG)), 30),
    "bodies to /embed": Attack(lambda port: post(port, "/embed", bytes(BIG)), 30),
    "body without end": Attack(endless),
    "tiny chunks": Attack(
        lambda port: raw(port, HALF + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000)
    ),
    "form parts": Attack(lambda port: post(port, "/embed", form(20_000), FORM), 4),
    "forms of 64 images": Attack(lambda port: post(port, "/embed", form(64), FORM), 4),
    # connections
    "half-open connections": Attack(lambda port: hold(port, b""), 2),
    "headers a byte at a time": Attack(lambda port: hold(port, HALF, b"x"), 2),
    "bodies a byte at a time": Attack(
        lambda port: hold(port, HALF + b"Content-Length: 30000000\r\n\r\n", b"x"), 2
    ),
    "pipelined and unread": Attack(
        lambda port: hold(
            port, b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200, connections=60
        ),
        2,
    ),
    "answers unread": Attack(unread, 2),
    "huge headers": Attack(lambda port: raw(port, b"GET / HTTP/1.1\r\nX: " + b"a" * 1_000_000)),
    "garbage": Attack(lambda port: raw(port, bytes(range(256)) * 64)),
    "foreign hosts": Attack(foreign_hosts),
    # work
    "patches as JSON": Attack(lambda port: post(port, "/embed?outputs=patch&imgsz=512", form(24), FORM), 4),
    "patches as base64": Attack(
        lambda port: post(port, "/embed?outputs=patch&imgsz=512&encoding=base64", form(24), FORM), 4
    ),
    "largest inputs": Attack(lambda port: post(port, "/embed?imgsz=1024", form(4), FORM), 4),
    "filters": Attack(
        lambda port: post(port, "/search?filter=" + "not%20" * 680 + "width%20%3E%201", small()), 4
    ),
    "URLs": Attack(urls),
}


def prepare(name: str) -> None:
    """Make the bodies of an attack: they are kept."""
    with contextlib.suppress(OSError), socket.create_server((HOST, 0)) as closed:
        port = closed.getsockname()[1]
        closed.close()
        ATTACKS[name].send(port)


def attack(name: str, port: int, seconds: float) -> int:
    """Send `name` from its threads for `seconds`. Returns how many requests were sent."""
    until = time.monotonic() + seconds
    sent = [0]

    def run() -> None:
        while time.monotonic() < until:
            try:
                ATTACKS[name].send(port)
            except (OSError, http.client.HTTPException):
                time.sleep(0.01)
            sent[0] += 1

    threads = [threading.Thread(target=run, daemon=True) for _ in range(ATTACKS[name].threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return sent[0]
