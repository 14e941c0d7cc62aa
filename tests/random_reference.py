"""ChaCha20, Philox and normals in plain Python, from their papers: no shared code."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator

import mpmath

MASK = 0xFFFFFFFF


def chacha20_words(key: bytes, counter: int, nonce: bytes) -> list[int]:
    """RFC 8439, section 2.3: the 16 words of one block."""
    state = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key)]
    state += [counter, *struct.unpack("<3I", nonce)]
    x = list(state)

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for target, source, rotated, amount in (
            (a, b, d, 16),
            (c, d, b, 12),
            (a, b, d, 8),
            (c, d, b, 7),
        ):
            x[target] = (x[target] + x[source]) & MASK
            word = x[rotated] ^ x[target]
            x[rotated] = ((word << amount) | (word >> (32 - amount))) & MASK

    for _ in range(10):
        for a, b, c, d in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)):
            quarter(a, b, c, d)
        for a, b, c, d in ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
            quarter(a, b, c, d)
    return [(a + b) & MASK for a, b in zip(x, state, strict=True)]


def chacha20_block(key: bytes, counter: int, nonce: bytes) -> bytes:
    return struct.pack("<16I", *chacha20_words(key, counter, nonce))


def noise_words(key: bytes, row: int, group: int) -> list[int]:
    """The block that gives the noise of a row in columns 4 group ... 4 group + 3."""
    return chacha20_words(key, group, struct.pack("<QI", row, 0))


def shuffle(rows: list[int], key: bytes) -> list[int]:
    """Fisher-Yates on the key stream of domain 1, by rejection."""

    def numbers() -> Iterator[int]:
        for block in itertools.count():
            words = chacha20_words(key, block & MASK, struct.pack("<3I", block >> 32, 0, 1))
            yield from (words[i] | words[i + 1] << 32 for i in range(0, 16, 2))

    source = numbers()
    rows = list(rows)
    for i in range(len(rows) - 1, 0, -1):
        limit = 2**64 // (i + 1) * (i + 1)
        j = next(value for value in source if value < limit) % (i + 1)
        rows[i], rows[j] = rows[j], rows[i]
    return rows


def philox4x32(counter: tuple[int, ...], key: tuple[int, ...]) -> list[int]:
    """Philox4x32-10 of Salmon et al. 2011."""
    c = list(counter)
    k = list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [second >> 32 ^ c[1] ^ k[0], second & MASK, first >> 32 ^ c[3] ^ k[1], first & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def fast_key(seed: int, stream: int) -> tuple[int, int]:
    words = philox4x32((stream & MASK, stream >> 32, 0, MASK), (seed & MASK, seed >> 32))
    return words[0], words[1]


def secure_normal_pair(words: list[int]) -> tuple[mpmath.mpf, mpmath.mpf, mpmath.mpf]:
    """Box-Muller of the 192 bits in 300-bit arithmetic: radius, first, second."""
    with mpmath.workprec(300):
        a, b, c, d, e, f = words
        bits = (a & 0x7FFFFFFF) << 96 | b << 64 | c << 32 | d
        v = (mpmath.mpf(bits) + mpmath.mpf(0.5)) / mpmath.mpf(2) ** 128
        radius = mpmath.sqrt(-2 * (mpmath.log(1 - v) if a >> 31 else mpmath.log(v)))
        angle = 2 * mpmath.pi * mpmath.mpf(e << 32 | f) / mpmath.mpf(2) ** 64
        return radius, radius * mpmath.cos(angle), radius * mpmath.sin(angle)
