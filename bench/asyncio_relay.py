# SPDX-License-Identifier: Apache-2.0
"""A relay as somebody would write it in an afternoon, to measure the real one against.

Everybody who connects to PUBLIC gets the lines that anybody writes to INGEST. Who does not read is
let go when 16 MiB wait for it, so that it can neither stop the others nor take all memory.
"""

import asyncio
import sys

MOST_WAITING = 16 * 1024 * 1024


async def serve(ingest: str, public: str) -> None:
    subscribers: set[asyncio.StreamWriter] = set()

    async def produce(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            for subscriber in list(subscribers):
                if subscriber.transport.get_write_buffer_size() > MOST_WAITING:
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
