"""Secure aggregation over your own transport: real sockets, one process per client, one client that dies half-way.

`privfed_protocols` does no input or output: bytes go in, bytes come out. Here they travel over TCP on the loopback
interface, each message behind a four-byte length; TLS, HTTP, a message queue or paper would do as well.

    python examples/own_transport.py --clients 6 --dimension 1000
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import struct
import sys
import time
from collections.abc import Mapping
from contextlib import closing

import numpy as np

from privfed_protocols import Client, Offer, RoundStarted, Server, Unmasking, VectorSpec

MODEL, PLAN = b"m" * 32, b"p" * 32  # digests of what is computed and how: both sides must mean the same
DEADLINE = 30.0


def send(connection: socket.socket, message: bytes) -> None:
    """Send one message behind its length."""
    connection.sendall(struct.pack(">I", len(message)) + message)


def receive(connection: socket.socket) -> bytes | None:
    """Return the next message, or None when the other side is gone or the deadline has passed."""
    try:
        header = read_exactly(connection, 4)
        return None if header is None else read_exactly(connection, struct.unpack(">I", header)[0])
    except (TimeoutError, ConnectionError):
        return None


def read_exactly(connection: socket.socket, size: int) -> bytes | None:
    """Return `size` bytes, or None at the end of the stream."""
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(65536, size - len(data)))
        if not part:
            return None
        data += part
    return bytes(data)


def private_vector(number: int, dimension: int) -> np.ndarray:
    """Return what client `number` would never show: here something that the example can check."""
    return np.arange(dimension, dtype=np.uint32) * np.uint32(number + 1)


def run_client(port: int, number: int, dimension: int, dies: bool) -> None:
    """One client in its own process: connect, say who we are, answer until the server hangs up."""
    client = Client(f"client-{number}".encode())
    with closing(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)) as connection:
        send(connection, client.identity)
        while (message := receive(connection)) is not None:
            event = client.receive(message, now=int(time.time()))
            if isinstance(event, RoundStarted):
                if dies:
                    return  # in the middle of the round, after its keys were shared: the others must recover
                masked = client.submit({"sum": private_vector(number, dimension)}, model_digest=MODEL, plan_digest=PLAN)
                send(connection, masked)
            elif event.reply is not None:
                send(connection, event.reply)
            if isinstance(event, Unmasking):
                return


def exchange(server: Server, peers: Mapping[bytes, socket.socket], messages: Mapping[bytes, bytes]) -> None:
    """Send each client its message, then take the answers of all that still live."""
    for identity, message in messages.items():
        send(peers[identity], message)
    for identity in messages:
        reply = receive(peers[identity])
        if reply is None:
            print(f"  {identity.decode()} is gone", file=sys.stderr)
        else:
            server.receive(identity, reply)


def main() -> None:
    """Run a server and its clients, and check the sum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--dimension", type=int, default=1000)
    arguments = parser.parse_args()
    n, dimension = arguments.clients, arguments.dimension

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=run_client, args=(port, i, dimension, i == 1)) for i in range(n)]
    for process in processes:
        process.start()

    peers: dict[bytes, socket.socket] = {}
    for _ in range(n):
        connection, _ = listener.accept()
        connection.settimeout(DEADLINE)
        identity = receive(connection)  # a real transport authenticates this: TLS client certificates, for example
        if identity is not None:
            peers[identity] = connection

    offer = Offer.new(
        vectors=(VectorSpec("sum", dimension, 32),), n_min=n - 2, n_max=n, rounds=1, plan_digest=PLAN, dropout=0.34
    )
    server = Server(offer)
    exchange(server, peers, dict.fromkeys(peers, server.offer))
    exchange(server, peers, server.close_advertise())
    for identity, message in server.close_shares().items():
        send(peers[identity], message)
    exchange(server, peers, server.start_round(model_digest=MODEL, plan_digest=PLAN))
    exchange(server, peers, server.close_inputs())
    result = server.close_unmask()
    for connection in peers.values():
        connection.close()
    for process in processes:
        process.join(DEADLINE)

    survivors = sorted(int(identity.decode().split("-")[1]) for identity in result.survivors)
    expected = sum((private_vector(i, dimension) for i in survivors), np.zeros(dimension, np.uint32))
    if not np.array_equal(result.sums["sum"], expected):
        raise SystemExit("the sum is wrong")
    print(
        f"survivors {survivors} of {n}; the sum of {dimension} values is exact: {result.sums['sum'][:5].tolist()} ..."
    )


if __name__ == "__main__":
    main()
