"""Write the test vectors of the protocol, `protocols/vectors/*.json`, from the slow reference in `tests/reference`.

    python scripts/make_vectors.py            write them
    python scripts/make_vectors.py --check    fail if the files differ from what would be written

All is deterministic. Refusals are in `refusal_vectors.py`; what is in `protocols/vectors/wycheproof` is not made here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from tests.protocols.replay_reference import FUNCTIONS  # noqa: E402 -- found by the line above
from tests.protocols.vector_files import FOLDER, abridged, client, expanded, numbers, secret  # noqa: E402
from tests.reference.words import num  # noqa: E402

Json = dict[str, Any]
PLAN: Final = hashlib.sha256(b"plan").hexdigest()
MODEL: Final = hashlib.sha256(b"model").hexdigest()


def positive(text: str, cases: Sequence[tuple[str, str, Json]]) -> Json:
    """Return a scenario; its outputs are what the reference gives."""
    made = []
    for name, function, inputs in cases:
        outputs = abridged(FUNCTIONS[function](expanded(inputs)), inputs)
        made.append({"name": name, "function": function, "inputs": inputs, "outputs": outputs})
    return {"kind": "positive", "about": text, "cases": made}


# --- primitives and derivations


def rfc() -> Json:
    """Return the examples of the RFCs, for the functions as the protocol calls them."""
    return positive(
        "RFC 7748, 6.1 (X25519); RFC 5869, appendix A (HKDF-SHA256, first 32 bytes); RFC 8032, 7.1 (Ed25519).",
        [
            ("RFC 7748, Alice", "x25519", {
                "private": "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
                "public": "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"}),
            ("RFC 7748, Bob", "x25519", {
                "private": "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
                "public": "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"}),
            ("RFC 5869, A.1", "kdf", {
                "secret": "0b" * 22, "salt": "000102030405060708090a0b0c", "info": "f0f1f2f3f4f5f6f7f8f9"}),
            ("RFC 5869, A.2", "kdf", {
                "secret": bytes(range(80)).hex(), "salt": bytes(range(0x60, 0xB0)).hex(),
                "info": bytes(range(0xB0, 0x100)).hex()}),
            ("RFC 5869, A.3", "kdf", {"secret": "0b" * 22, "salt": "", "info": ""}),
            ("RFC 8032, test 1", "ed25519", {
                "seed": "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", "message": ""}),
            ("RFC 8032, test 2", "ed25519", {
                "seed": "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb", "message": "72"}),
        ],
    )  # fmt: skip


def derivations() -> Json:
    """Return every hash and key, from inputs that stand for themselves."""
    ids = {name: secret("derivations", name) for name in ("epoch", "root", "context", "secret", "seed")}
    cases: list[tuple[str, str, Json]] = []
    for suite in (1, 2):
        told = f"suite {suite}, "
        parts = {
            "epoch id": [secret("an offer", size=80)],
            "self-mask seed commitment": [ids["epoch"], b"ann".hex(), num(3).hex(), ids["seed"]],
            "round context": [ids["epoch"], num(3).hex(), ids["root"], "1f", MODEL, PLAN],
            "graph seed": [ids["root"], "00" * 32],
            "consistency of survivors": [ids["context"], "1f"],
        }
        cases += [(told + label, "hash", {"label": label, "suite": suite, "parts": p}) for label, p in parts.items()]
        common = {"suite": suite, "secret": ids["secret"]}
        roster = common | {"epoch": ids["epoch"], "root": ids["root"], "n": 300}
        cases += [
            (told + "share key one way", "share_key", roster | {"sender": 1, "receiver": 258}),
            (told + "share key the other way", "share_key", roster | {"sender": 258, "receiver": 1}),
            (told + "coefficient key", "coefficient_key", roster),
        ]
        for vector in (["x", 1000, 32], ["x", 1000, 31], ["größe", 1, 64]):
            here = common | {"context": ids["context"], "index": 258, "vector": vector}
            cases += [
                (told + f"self mask of {vector}", "self_mask_key", here),
                (told + f"pair mask of {vector}, subtracted", "pair_mask_key", here | {"peer": 1}),
                (told + f"pair mask of {vector}, added", "pair_mask_key", here | {"index": 1, "peer": 258}),
            ]
    cases.append(("no parts", "hash", {"label": "epoch id", "suite": 1, "parts": []}))
    cases.append(("an empty part", "hash", {"label": "epoch id", "suite": 1, "parts": ["", ""]}))
    return positive("Frames, hashes and keys: sections 2 and 4 of the protocol text.", cases)


def sealing() -> Json:
    """Return sealed shares of both suites."""
    cases = [
        (f"suite {suite}, {size} bytes", "seal", {
            "suite": suite, "key": secret("seal", suite, size), "plaintext": secret("plain", suite, size, size=size),
            "associated_data": secret("associated", suite, size, size=41)})
        for suite in (1, 2) for size in (0, 1, 72, 720)
    ]  # fmt: skip
    return positive("Authenticated encryption of shares: zero nonce, tag of 16 bytes at the end.", cases)


def merkle() -> Json:
    """Return trees of every small shape."""
    cases = [
        (f"{count} leaves", "merkle", {"leaves": [secret("leaf", at, size=at) for at in range(count)]})
        for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 13)
    ]
    return positive("RFC 6962 roots and inclusion paths.", cases)


def graph() -> Json:
    """Return neighbour lists."""
    complete = {"n": 5, "k": 4, "seed": "00" * 32, "clients": list(range(5))}
    rings = [(11, 4), (12, 10), (50, 6), (301, 60), (1000, 30), (10_000, 34)]
    cases: list[tuple[str, str, Json]] = [("complete graph", "neighbours", complete)]
    for n, k in rings:
        clients = list(range(n)) if n < 20 else [0, 1, n // 2, n - 1]
        inputs = {"n": n, "k": k, "seed": secret("ring", n, k), "clients": clients}
        cases.append((f"ring of {n}, {k} neighbours", "neighbours", inputs))
    return positive("Neighbour lists, ascending; the seed is the graph seed of section 4.", cases)


def parameters() -> Json:
    """Return selections: the rows that google/federated-compute publishes, and corners of all modes."""
    rows: list[tuple[int, float, float, int, int, str, int, int]] = [
        (1000, 0.05, 0.05, 40, 20, "semi-honest", 2, 1000),
        (1000, 0.05, 0.05, 40, 20, "semi-malicious", 2, 1000),
        (10_000, 0.05, 0.05, 40, 20, "semi-honest", 2, 10_000),
        (10_000, 0.05, 0.05, 40, 20, "semi-malicious", 2, 10_000),
        (10_000, 0.33, 0.33, 40, 20, "semi-honest", 2, 10_000),
        (301, 0.0, 0.0, 40, 20, "semi-honest", 2, 301),
        (301, 0.05, 0.1, 40, 20, "semi-honest", 280, 400),
        (301, 0.05, 0.1, 40, 20, "semi-malicious", 280, 400),
        (2000, 0.2, 0.1, 64, 30, "semi-honest", 2, 2000),
        (2000, 0.2, 0.3, 40, 20, "malicious", 2, 2000),
        (2000, 0.5, 0.3, 40, 20, "malicious", 2, 2000),
        (400, 0.45, 0.5, 40, 20, "semi-malicious", 2, 400),
    ]
    for n in (2, 3, 4, 5, 10, 100, 300):
        for mode in ("semi-honest", "semi-malicious", "malicious"):
            rows += [(n, c, d, 40, 20, mode, 2, n) for c, d in ((0.0, 0.0), (0.1, 0.2), (0.29, 0.29), (0.5, 0.25))]
    rows.append((10, 0.3, 0.5, 40, 20, "semi-honest", 8, 20))
    keys = ("n", "corrupt", "dropout", "sigma", "eta", "mode", "n_min", "n_max")
    cases = [("n={} {}/{} sigma={} eta={} {} of {} to {}".format(*row), "parameters",
              dict(zip(keys, row, strict=True))) for row in rows]  # fmt: skip
    return positive("Neighbours k and threshold t: section 8 of the protocol text; or that nothing fits.", cases)


# --- arithmetic


def shamir() -> Json:
    """Return shares and what opens from some of them."""
    cases: list[tuple[str, str, Json]] = []
    top = "ff" * 32
    for suite, n, t, secrets in (
        (1, 3, 2, [secret("s", 1)]),
        (2, 5, 3, [secret("s", 2), top, "00" * 32]),
        (1, 10, 10, [secret("s", 3)]),
        (1, 4, 1, [secret("s", 4)]),
        (1, 40, 30, [secret("s", 5)]),
    ):
        inputs = {"secrets": secrets, "points": n, "t": t, "suite": suite, "key": secret("polynomial", n, t)}
        cases.append((f"share {len(secrets)} to {n}, threshold {t}", "share", inputs))
        shares = FUNCTIONS["share"](inputs)["shares"]
        for points in {1: range(1, t + 1), n - t + 1: range(n - t + 1, n + 1)}.values():
            given = [shares[point - 1][:72] for point in points]
            cases.append(
                (
                    f"{n} points, threshold {t}, open from {points[0]} on",
                    "combine",
                    {"points": list(points), "shares": given},
                )
            )
    return positive("Secrets of 32 bytes, nine limbs over GF(2^31 - 1), points 1 to n; shares of 36 bytes.", cases)


def streams() -> Json:
    """Return keystreams across the sizes at which implementations change their way."""
    sizes = (1, 63, 64, 65, 4096, (256 << 10) - 1, (256 << 10) + 33)
    cases = [(f"suite {suite}, {size} bytes", "stream", {"suite": suite, "key": secret("stream", suite), "size": size})
             for suite in (1, 2) for size in sizes]  # fmt: skip
    return positive("Mask streams: first 80 and last 16 bytes, SHA-256 of the whole.", cases)


def packing() -> Json:
    """Return packed elements of every width."""
    cases = []
    for bits in range(1, 65):
        values = [0, (1 << bits) - 1, *numbers("pack", bits, count=7 + bits % 9, bits=bits)]
        cases.append((f"{bits} bits", "pack", {"bits": bits, "values": values}))
    return positive("Ring elements packed bit by bit.", cases)


def masked() -> Json:
    """Return vectors under streams, some added, some subtracted."""
    cases: list[tuple[str, str, Json]] = []
    for suite in (1, 2):
        for bits in (1, 7, 8, 13, 16, 20, 32, 33, 63, 64):
            masks = [[secret("mask", suite, bits, at), at % 2 == 1] for at in range(3)]
            values = numbers("masked", suite, bits, count=9, bits=bits)
            inputs = {"suite": suite, "bits": bits, "values": values, "masks": masks}
            cases.append((f"suite {suite}, {bits} bits", "masked", inputs))
    return positive("Vectors plus and minus mask streams [key, subtracted], modulo 2^bits, packed.", cases)


def surplus() -> Json:
    """Return the chain of surplus seeds."""
    return positive("Seeds of surplus noise.", [("five", "surplus", {"seed": secret("surplus"), "length": 5})])


def signatures() -> Json:
    """Return signed envelopes and certificates."""
    cases: list[tuple[str, str, Json]] = []
    for suite in (1, 2):
        for label in ("signed offer", "signed advertise", "signed masked vectors", "signed survivors"):
            inputs = {"label": label, "suite": suite, "seed": secret("signer"), "body": secret("body", label, size=300),
                      "epoch": "" if label == "signed offer" else secret("epoch"), "certificate": ""}  # fmt: skip
            cases.append((f"suite {suite}, {label}", "signed", inputs))
    public = FUNCTIONS["ed25519"]({"seed": secret("authority"), "message": ""})["public"]
    authority = {"authority_seed": secret("authority"), "authority": public}
    inputs = authority | {
        "identity": b"ann".hex(),
        "key": FUNCTIONS["ed25519"]({"seed": secret("ann"), "message": ""})["public"],
        "expiry": 1_900_000_000,
    }
    cases.append(("a certificate", "certificate", inputs))
    made = FUNCTIONS["certificate"](inputs)["certificate"]
    cases.append(("with a certificate", "signed", {
        "label": "signed advertise", "suite": 1, "seed": secret("ann"), "body": secret("body", size=40),
        "epoch": secret("epoch"), "certificate": made}))  # fmt: skip
    return positive("What is signed, and the message 11 around it.", cases)


# --- epochs


def epoch_inputs(
    tag: str,
    n: int,
    losses: Sequence[Json],
    *,
    lost: Json | None = None,
    vectors: Sequence[Sequence[object]] = (("x", 4, 32),),
    **offered: object,
) -> Json:
    """Return the inputs of an epoch with one entry of `losses` a round; clients are called by their numbers."""
    offer: Json = {
        "nonce": secret(tag, "nonce"), "suite": 1, "mode": "semi-honest", "n_min": 2, "n_max": n, "corrupt": 0.0,
        "dropout": 0.4, "sigma": 40, "eta": 20, "rounds": len(losses), "expiry": 0,
        "vectors": [list(spec) for spec in vectors], "plan_digest": PLAN, "shares": 0,
    }  # fmt: skip
    offer |= offered
    signed = offer["mode"] != "semi-honest"
    clients = [client(tag, at, offer["rounds"], signed) for at in range(n)]
    names = [one["identity"] for one in clients]

    def called(numbered: Json, steps: Sequence[str]) -> Json:
        return {step: [names[at] for at in numbered.get(step, [])] for step in steps}

    rounds = [
        {
            "model_digest": MODEL, "plan_digest": PLAN, "deadline": missing.get("deadline", 0),
            "participants": [names[at] for at in missing["participants"]] if "participants" in missing else None,
            "vectors": {name: [numbers(tag, r, name, spec[0], count=spec[1], bits=spec[2]) for spec in offer["vectors"]]
                        for name in names},
            "surplus_seeds": {name: secret(tag, r, name, "surplus") for name in names} if offer["shares"] else {},
            "lost": called(missing, ("start", "input", "signature", "unmask")),
        }
        for r, missing in enumerate(losses)
    ]  # fmt: skip
    gone = called(lost or {}, ("advertise", "shares", "delivery"))
    seed = secret(tag, "server") if signed else ""
    return {"offer": offer, "server_seed": seed, "clients": clients, "lost": gone, "rounds": rounds}


MIXED: Final = (("gradient", 5, 20), ("count", 1, 64), ("bits", 11, 3))
THREE: Final = ({"start": [1]}, {"input": [2]}, {"unmask": [0], "signature": [4]})
ABOUT: Final = (
    "An epoch from its secrets: every message and sum. Clients are named by identity (hexadecimal); `lost` names those "
    "whose message of a step never arrives. Messages 2 to 4 of other clients than the first are given as SHA-256. "
)


def epochs() -> dict[str, Json]:
    """Return whole epochs: three rounds, drop-outs at each step, three modes, both suites."""
    made = {
        "epoch-semi-honest": ("Three rounds, drop-outs at each step.", epoch_inputs(
            "semi-honest", 7, THREE, lost={"advertise": [6], "shares": [5]}, vectors=MIXED)),
        "epoch-semi-malicious": ("Signed offers and advertises; one delivery is lost; a round without one client.",
            epoch_inputs("semi-malicious", 6, ({}, {"participants": [0, 1, 2, 3, 4], "input": [3]}, {"unmask": [1]}),
                         lost={"delivery": [5]}, mode="semi-malicious", dropout=0.34)),
        "epoch-malicious": ("Signatures on everything and a quorum on the survivors.", epoch_inputs(
            "malicious", 7, THREE, lost={"advertise": [6]}, mode="malicious", dropout=0.34, vectors=MIXED)),
        "epoch-suite-2": ("ChaCha20 and ChaCha20-Poly1305.", epoch_inputs(
            "suite 2", 4, ({"input": [2]}, {}), suite=2, mode="malicious", dropout=0.25, vectors=MIXED)),
        "epoch-surplus": ("Seeds of surplus noise after 0, 1 and 2 drop-outs (then none is left), and a survivor lost "
                          "before it answers.", epoch_inputs(
            "surplus", 5, ({}, {"input": [1]}, {"input": [1], "start": [4]}, {"unmask": [2]}),
            n_min=3, shares=5)),
        "epoch-two": ("The smallest epoch: two clients, nobody may drop out.", epoch_inputs(
            "two", 2, ({},), dropout=0.0, vectors=(("x", 1, 1),))),
    }  # fmt: skip
    found = {name: positive(ABOUT + text, [(text, "epoch", inputs)]) for name, (text, inputs) in made.items()}
    ring = epoch_inputs("ring", 301, ({"input": [7]},), n_min=280, corrupt=0.0, dropout=0.02, eta=10,
                        vectors=(("x", 2, 16),))  # fmt: skip
    text = "A ring of 301 clients; all messages of a kind as one SHA-256, by ascending identity."
    ring |= {"brief": True, "clients": {"tag": "ring", "count": 301}}
    ring["rounds"][0]["vectors"] = {"tag": "ring/0"}
    more = (
        " Client i is `client-` and i in four digits; its secrets are 32 bytes of SHAKE-256 of ring/i/c (channel), "
        "ring/i/s (sharing seed), ring/i/e/0 (mask key), ring/i/b/0 (self-mask seed); its vector is little-endian "
        "words of SHAKE-256 of ring/0/IDENTITY/x."
    )
    return found | {"epoch-ring": positive(ABOUT + text + more, [(text, "epoch", ring)])}


def bases() -> dict[str, Json]:
    """Return the inputs of the epochs that the negative vectors start from: five clients, two rounds, no losses."""
    losses, vectors = ({"deadline": 500}, {"deadline": 500}), (("x", 4, 32), ("bits", 5, 3))
    corrupt = {"semi-honest": 0.0, "semi-malicious": 0.0, "malicious": 0.2}
    offered: Json = {"vectors": vectors, "dropout": 0.2, "expiry": 1000}
    return {
        f"epoch-base-{mode}": epoch_inputs(f"base {mode}", 5, losses, mode=mode, corrupt=fraction, **offered)
        for mode, fraction in corrupt.items()
    }


def refusals(inputs: dict[str, Json]) -> dict[str, Json]:
    """Return the negative scenarios."""
    from refusal_messages import Base
    from refusal_vectors import FIRST, numbered
    from refusal_vectors_roster import ROSTER
    from refusal_vectors_rounds import ROUNDS

    return numbered((*FIRST, *ROSTER, *ROUNDS), {name: Base(name, one) for name, one in inputs.items()})


SINGLE: Final[dict[str, Callable[[], Json]]] = {
    "rfc": rfc,
    "derivations": derivations,
    "sealing": sealing,
    "merkle": merkle,
    "graph": graph,
    "parameters": parameters,
    "shamir": shamir,
    "streams": streams,
    "packing": packing,
    "masked-vectors": masked,
    "surplus-seeds": surplus,
    "signatures": signatures,
}


def all_files() -> dict[str, str]:
    """Return every file, by name."""
    started = bases()
    text = ABOUT + "Five clients, nobody lost; the negative vectors start from here."
    made = {name: make() for name, make in SINGLE.items()} | epochs()
    made |= {name: positive(text, [("whole", "epoch", inputs)]) for name, inputs in started.items()}
    made |= refusals(started)
    return {f"{name}.json": json.dumps(one, indent=1, ensure_ascii=False) + "\n" for name, one in made.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; the exit status."""
    parser = argparse.ArgumentParser(description="Write the protocol's test vectors.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs")
    check = parser.parse_args(arguments).check
    wanted, there = all_files(), {path.name for path in FOLDER.glob("*.json")}
    if check:
        wrong = sorted(
            name for name in wanted if name not in there or (FOLDER / name).read_text("utf-8") != wanted[name]
        )
        wrong += sorted(there - set(wanted))
        print("\n".join(f"differs: {name}" for name in wrong) or f"{len(wanted)} files are as they should be")
        return bool(wrong)
    FOLDER.mkdir(exist_ok=True)
    for name in there - set(wanted):
        (FOLDER / name).unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"{len(wanted)} files, {sum(map(len, wanted.values())) // 1024} KB, in {FOLDER}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
