"""An HTTP server that is slow, fails, resets and lies, as its rows are told to; and a client for it.

Both are asyncio streams: what is tested is the prefetcher, and nothing of an HTTP library.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Plan = Callable[[int, int], str]
"""What row ``key`` gets at attempt ``number`` (from 1): one of the names in ``SlowServer``."""


def text_of(key: int) -> str:
    """The row that belongs to a key."""
    return f"row {key}: " + "water falls " * (key % 7)


class HttpError(Exception):
    """The answer was not 200."""


class SlowServer:
    """Serves ``/KEY`` on 127.0.0.1, from an event loop in a thread of its own.

    A plan says what each request gets: ``ok``, ``late`` (after 20 ms), ``500``, ``reset`` (RST in the middle
    of the body), ``short`` (closed before Content-Length), ``slow`` (a byte every 5 ms), ``never``.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.requests: Counter[int] = Counter()
        self.num_open = self.most_open = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="slow-server", daemon=True)
        self._thread.start()
        self._serving = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        self.port: int = self._serving.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Close every connection and end the thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)

    async def _end(self) -> None:
        self._serving.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._answer(reader, writer)
        finally:
            self.num_open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        key = int((await reader.readuntil(b"\r\n\r\n")).split()[1].strip(b"/"))
        self.requests[key] += 1
        fate = self._plan(key, self.requests[key])
        body = text_of(key).encode()
        status = "500 Internal Server Error" if fate == "500" else "200 OK"
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        if fate == "never":
            await reader.read()  # until the client has gone
        elif fate == "reset":
            writer.write(head + body[:3])
            await writer.drain()
            linger_not = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
            writer.transport.abort()
        elif fate == "short":
            writer.write(head + body[:-1])
        elif fate == "slow":
            writer.write(head)
            for byte in body:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.005)
        else:
            await asyncio.sleep(0.02 if fate == "late" else 0)
            writer.write(head + body)
        with suppress(ConnectionError):
            await writer.drain()


async def fetch(port: int, key: int) -> str:
    """GET ``/key``.

    Raises:
        HttpError: The status is not 200.
        ConnectionError: The connection was reset.
        asyncio.IncompleteReadError: The body is shorter than it was said to be.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET /{key} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status, *fields = head.splitlines()
        if " 200 " not in status:
            raise HttpError(status)
        (length,) = [int(each.split(":")[1]) for each in fields if each.startswith("Content-Length")]
        return (await reader.readexactly(length)).decode()
    finally:
        writer.close()


def plan_of(**fates: Any) -> Plan:
    """A plan by key: ``{3: ["500", "ok"]}`` is a failure and then an answer; others are ``ok``."""
    by_key = defaultdict(lambda: ["ok"], fates.get("rows", {}))
    return lambda key, attempt: by_key[key][min(attempt, len(by_key[key])) - 1]
