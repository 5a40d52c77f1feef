# SPDX-License-Identifier: Apache-2.0
"""A simple relay on asyncio, to compare the relay with.

Every subscriber connected to PUBLIC gets the lines that producers write to INGEST. A subscriber
with more than 16 MiB of pending data is disconnected, so that it cannot use up the memory.
"""

import asyncio
import sys

MAX_PENDING = 16 * 1024 * 1024


async def serve(ingest: str, public: str) -> None:
    subscribers: set[asyncio.StreamWriter] = set()

    async def produce(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            for subscriber in list(subscribers):
                if subscriber.transport.get_write_buffer_size() > MAX_PENDING:
                    subscribers.discard(subscriber)
                    subscriber.transport.abort()
                else:
                    subscriber.write(line)
        writer.close()

    async def subscribe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        subscribers.add(writer)
        await reader.read()
        subscribers.discard(writer)
        writer.close()

    limit = 1024 * 1024
    await asyncio.start_unix_server(produce, ingest, limit=limit)
    server = await asyncio.start_unix_server(subscribe, public, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
