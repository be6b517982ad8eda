"""Random changes of bytes and of JSON values, for the fuzzers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

EXTREMES = (
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x7f\xff\xff\xff",
    b"[[[[",
    b'"\\ud800"',
    b"<image>",
    b"../",
    b"1e999",
    b"NaN,",
)

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**53, 2**63, 1e308, "", "x", "../x", "/dev/zero", "\0", "\ud83d\ude00", "<image>"),
    *("9" * 5000, [], {}, [[]], ["000.jpg"], "000.png", "0" * 64),
)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """``data`` after one to four random changes."""
    changes: list[Callable[[bytearray], None]] = [
        lambda b: b.__setitem__(rng.randrange(len(b)), rng.randrange(256)),
        lambda b: b.__delitem__(slice(rng.randrange(len(b)), None)),
        lambda b: b.__setitem__(slice(at := rng.randrange(len(b)), at + rng.randrange(1, 64)), rng.randbytes(8)),
        lambda b: b.__setitem__(slice(at := rng.randrange(len(b)), at), b[:256]),
        lambda b: b.__setitem__(slice(at := rng.randrange(len(b)), at + 4), rng.choice(EXTREMES)),
    ]
    value = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        if value:
            rng.choice(changes)(value)
    return bytes(value)


def edit_json(value: Any, rng: random.Random) -> None:
    """Change the list or object ``value`` in one place, anywhere inside of it."""
    while True:
        keys = list(value.keys()) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            break
        key = rng.choice(keys)
        inner = value[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.8:
            value = inner
            continue
        break
    changes = [_put, _nudge, _nudge, _remove, _repeat]
    rng.choice(changes)(value, keys, rng)


def _put(value: Any, keys: list[Any], rng: random.Random) -> None:
    if isinstance(value, dict):
        value[rng.choice([*keys, "more"])] = rng.choice(VALUES)
    elif keys:
        value[rng.choice(keys)] = rng.choice(VALUES)
    else:
        value.append(rng.choice(VALUES))


def _nudge(value: Any, keys: list[Any], rng: random.Random) -> None:
    for key in rng.sample(keys, len(keys)):
        one = value[key]
        if isinstance(one, bool):
            continue
        if isinstance(one, int | float):
            value[key] = one + rng.choice((-1, 1, 512))
            return
        if isinstance(one, str) and one:
            place = rng.randrange(len(one))
            value[key] = one[:place] + rng.choice("0aZ .") + one[place + 1 :]
            return


def _remove(value: Any, keys: list[Any], rng: random.Random) -> None:
    if keys:
        del value[rng.choice(keys)]


def _repeat(value: Any, keys: list[Any], rng: random.Random) -> None:
    if isinstance(value, list) and value:
        value.insert(rng.randrange(len(value) + 1), rng.choice(value))
    elif len(keys) > 1:
        one, other = rng.sample(keys, 2)
        value[one], value[other] = value[other], value[one]
