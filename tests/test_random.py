"""Random bits and normals: published vectors, exact twins, and the law of what comes out.

Statistical tests run on fixed keys, so they either always pass or always fail; each bound is one
that a correct generator would miss with probability below 1e-9 for a random key.
"""

from __future__ import annotations

import struct

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

import random_reference as reference
from dpslice import _core

Array = NDArray[np.float64]

ZERO_KEY = bytes(32)
ONE_KEY = bytes(31) + b"\x01"
COUNTING_KEY = bytes(range(32))
POEM_KEY = bytes.fromhex("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0")
ZERO_NONCE = bytes(12)
TWO_NONCE = bytes(11) + b"\x02"
KEY = bytes(range(100, 132))

# A normal beyond this in absolute value has probability below 1e-9.
Z_LIMIT = 6.12

# RFC 8439: (key, counter, nonce, first bytes of the key stream from that counter on).
BLOCK_VECTORS = {
    "2.3.2": (
        COUNTING_KEY,
        1,
        "000000090000004a00000000",
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e",
    ),
    "A.1 #1": (
        ZERO_KEY,
        0,
        ZERO_NONCE.hex(),
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
    ),
    "A.1 #2": (
        ZERO_KEY,
        1,
        ZERO_NONCE.hex(),
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f",
    ),
    "A.1 #3": (
        ONE_KEY,
        1,
        ZERO_NONCE.hex(),
        "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
        "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0",
    ),
    "A.1 #4": (
        b"\x00\xff" + bytes(30),
        2,
        ZERO_NONCE.hex(),
        "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca"
        "13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096",
    ),
    "A.1 #5": (
        ZERO_KEY,
        0,
        TWO_NONCE.hex(),
        "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7"
        "8a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d",
    ),
    # A.4: one-time keys of Poly1305, the first half of a block.
    "A.4 #1": (
        ZERO_KEY,
        0,
        ZERO_NONCE.hex(),
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7",
    ),
    "A.4 #2": (
        ONE_KEY,
        0,
        TWO_NONCE.hex(),
        "ecfa254f845f647473d3cb140da9e87606cb33066c447b87bc2666dde3fbb739",
    ),
    "A.4 #3": (
        POEM_KEY,
        0,
        TWO_NONCE.hex(),
        "965e3bc6f9ec7ed9560808f4d229f94b137ff275ca9b3fcbdd59deaad23310ae",
    ),
}

SUNSCREEN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
    b"future, sunscreen would be it."
)
CONTRIBUTION = (
    b"Any submission to the IETF intended by the Contributor for publication as all or part of an "
    b"IETF Internet-Draft or RFC and any statement made within the context of an IETF activity is "
    b'considered an "IETF Contribution". Such statements include oral statements in IETF sessions, '
    b"as well as written and electronic communications made at any time or place, which are "
    b"addressed to"
)
JABBERWOCKY = (
    b"'Twas brillig, and the slithy toves\nDid gyre and gimble in the wabe:\n"
    b"All mimsy were the borogoves,\nAnd the mome raths outgrabe."
)
# RFC 8439: (key, counter, nonce, message, cipher text).
CIPHER_VECTORS = {
    "2.4.2": (
        COUNTING_KEY,
        1,
        "000000000000004a00000000",
        SUNSCREEN,
        "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0bf91b65c5524733ab8f593dab"
        "cd62b3571639d624e65152ab8f530c359f0861d807ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806"
        "818ce91ab77937365af90bbf74a35be6b40b8eedf2785e42874d",
    ),
    "A.2 #1": (
        ZERO_KEY,
        0,
        ZERO_NONCE.hex(),
        bytes(64),
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
    ),
    "A.2 #2": (
        ONE_KEY,
        1,
        TWO_NONCE.hex(),
        CONTRIBUTION,
        "a3fbf07df3fa2fde4f376ca23e82737041605d9f4f4f57bd8cff2c1d4b7955ec2a97948bd3722915c8f3d337"
        "f7d370050e9e96d647b7c39f56e031ca5eb6250d4042e02785ececfa4b4bb5e8ead0440e20b6e8db09d881a7"
        "c6132f420e52795042bdfa7773d8a9051447b3291ce1411c680465552aa6c405b7764d5e87bea85ad00f8449"
        "ed8f72d0d662ab052691ca66424bc86d2df80ea41f43abf937d3259dc4b2d0dfb48a6c9139ddd7f76966e928"
        "e635553ba76c5c879d7b35d49eb2e62b0871cdac638939e25e8a1e0ef9d5280fa8ca328b351c3c765989cbcf"
        "3daa8b6ccc3aaf9f3979c92b3720fc88dc95ed84a1be059c6499b9fda236e7e818b04b0bc39c1e876b193bfe"
        "5569753f88128cc08aaa9b63d1a16f80ef2554d7189c411f5869ca52c5b83fa36ff216b9c1d30062bebcfd2d"
        "c5bce0911934fda79a86f6e698ced759c3ff9b6477338f3da4f9cd8514ea9982ccafb341b2384dd902f3d1ab"
        "7ac61dd29c6f21ba5b862f3730e37cfdc4fd806c22f221",
    ),
    "A.2 #3": (
        POEM_KEY,
        42,
        TWO_NONCE.hex(),
        JABBERWOCKY,
        "62e6347f95ed87a45ffae7426f27a1df5fb69110044c0d73118effa95b01e5cf166d3df2d721caf9b21e5fb1"
        "4c616871fd84c54f9d65b283196c7fe4f60553ebf39c6402c42234e32a356b3e764312a61a5532055716ead6"
        "962568f87d3f3f7704c6a8d1bcd1bf4d50d6154b6da731b187b58dfd728afa36757a797ac188d1",
    ),
}

# Random123, kat_vectors: (counter, key, output).
PHILOX_VECTORS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


# ------------------------------------------------------------------------------------- vectors


@pytest.mark.parametrize("name", BLOCK_VECTORS)
def test_chacha20_block_is_that_of_rfc_8439(name: str) -> None:
    key, counter, nonce, expected = BLOCK_VECTORS[name]
    block = _core.chacha20_block(key, counter, bytes.fromhex(nonce))
    assert len(block) == 64
    assert block[: len(expected) // 2].hex() == expected


@pytest.mark.parametrize("name", CIPHER_VECTORS)
def test_chacha20_key_stream_is_that_of_rfc_8439(name: str) -> None:
    key, counter, nonce, message, cipher = CIPHER_VECTORS[name]
    blocks = range(counter, counter + -(-len(message) // 64))
    stream = b"".join(_core.chacha20_block(key, c, bytes.fromhex(nonce)) for c in blocks)
    assert bytes(a ^ b for a, b in zip(message, stream, strict=False)).hex() == cipher


@settings(deadline=None)
@given(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=12, max_size=12),
)
def test_chacha20_block_equals_its_twin(key: bytes, counter: int, nonce: bytes) -> None:
    expected = reference.chacha20_block(key, counter, nonce)
    assert _core.chacha20_block(key, counter, nonce) == expected
    assert _core.chacha20_block(bytearray(key), counter, nonce) == expected


def test_chacha20_refuses_wrong_lengths() -> None:
    with pytest.raises(ValueError, match="key must be 32 bytes"):
        _core.chacha20_block(bytes(31), 0, ZERO_NONCE)
    with pytest.raises(ValueError, match="nonce must be 12 bytes"):
        _core.chacha20_block(ZERO_KEY, 0, bytes(8))


@pytest.mark.parametrize(("counter", "key", "expected"), PHILOX_VECTORS)
def test_philox_is_that_of_random123(
    counter: list[int], key: list[int], expected: list[int]
) -> None:
    assert list(_core.philox4x32(counter, key)) == expected


WORD = st.integers(0, 2**32 - 1)


@given(st.tuples(WORD, WORD, WORD, WORD), st.tuples(WORD, WORD))
def test_philox_equals_its_twin(counter: tuple[int, ...], key: tuple[int, ...]) -> None:
    assert list(_core.philox4x32(counter, key)) == reference.philox4x32(counter, key)


# ----------------------------------------------------------------- accuracy of the secure normals


def both_ends() -> list[list[int]]:
    """Every size of v = w/2 from 2^-129 to 1/2, on both sides of u; every octant and its edges."""
    cases = []
    for mirrored in (0, 0x80000000):
        for bits in [
            0,
            (1 << 127) - 1,
            *(1 << i for i in range(127)),
            *(3 << i for i in range(126)),
        ]:
            words = [bits >> 96 | mirrored, *(bits >> s & 0xFFFFFFFF for s in (64, 32, 0))]
            cases.append([*words, 0x12345678 * (bits % 31) & 0xFFFFFFFF, bits % 1000003])
    for octant in range(8):
        for nudge in (-1, 0, 1):
            angle = ((octant << 61) + nudge) % 2**64
            cases.append([0x40000000, 0, 0, 0, angle >> 32, angle & 0xFFFFFFFF])
    return cases


def test_secure_normals_keep_full_precision_everywhere(isa: str) -> None:
    # The privacy argument allows an error of 8 * 2^-52 * 11 = 176 * 2^-53 (times sigma) for a
    # normal whose radius is at most 10.3. Measured: 2.8 * 2^-53 times the radius, at any radius.
    random = np.random.default_rng(0).integers(0, 2**32, (3000, 6), dtype=np.uint32)
    words = np.concatenate([np.array(both_ends(), dtype=np.uint32), random])
    pairs = _core.secure_normals(words)
    worst = 0.0
    for given_words, pair in zip(words.tolist(), pairs.tolist(), strict=True):
        radius, *exact = reference.secure_normal_pair(given_words)
        for value, true in zip(pair, exact, strict=True):
            worst = max(worst, float(abs(mpmath.mpf(value) - true) / radius) * 2.0**53)
    assert worst < 4.0


def test_secure_normals_reach_beyond_what_64_bits_could() -> None:
    words = np.array([[0, 0, 0, 0, 0, 0], [0x80000000, 0, 0, 0, 0, 0]], dtype=np.uint32)
    (far, _), (near, _) = _core.secure_normals(words).tolist()
    assert far == pytest.approx(np.sqrt(2 * 129 * np.log(2)), rel=1e-15)  # 13.37
    assert near == pytest.approx(2.0**-64, rel=1e-15)  # sqrt(2 * 2^-129)


# ------------------------------------------------------- which bits make the noise of which number


def secure_noise(rows: int, columns: int, *, key: bytes = KEY, first_row: int = 0) -> Array:
    """Secure noise of sigma = 1 alone, on its grid of 2^-10."""
    out: Array = _core.project_secure(
        np.zeros((rows, 1)), np.zeros((1, columns)), 1.0, key, first_row, 1.0, "float64"
    )
    return out


@pytest.mark.parametrize("first_row", [0, 2**32 - 2, 2**63 - 10])
@pytest.mark.parametrize("columns", [1, 3, 4, 5, 131])
def test_secure_noise_comes_from_the_stated_block(isa: str, first_row: int, columns: int) -> None:
    rows = 35  # more than one tile
    noise = secure_noise(rows, columns, first_row=first_row)
    for row in (0, 1, 2, 31, 32, 34):
        for group in range(-(-columns // 4)):
            words = reference.noise_words(KEY, first_row + row, group)
            normals = _core.secure_normals(np.array([words[:6], words[6:12]], dtype=np.uint32))
            expected = np.round(normals.ravel() * 1024.0) / 1024.0
            stop = min(4, columns - 4 * group)
            got = noise[row, 4 * group : 4 * group + stop]
            np.testing.assert_array_equal(got, expected[:stop])


def test_no_two_places_share_a_block() -> None:
    # (row, group) -> (nonce, counter) is one to one: changing any of their bits changes the block.
    words = {tuple(reference.noise_words(KEY, row, 0)) for row in (0, *(1 << i for i in range(64)))}
    words |= {tuple(reference.noise_words(KEY, 0, 1 << i)) for i in range(32)}
    assert len(words) == 1 + 64 + 32


def test_secure_noise_does_not_depend_on_tiling_or_threads(isa: str) -> None:
    whole = secure_noise(300, 140)
    before = _core.num_threads()
    try:
        for threads in (1, 2, 3):
            _core.set_num_threads(threads)
            np.testing.assert_array_equal(secure_noise(300, 140), whole)
    finally:
        _core.set_num_threads(before)
    for start, stop in ((0, 1), (1, 32), (32, 290), (290, 300)):
        part = secure_noise(stop - start, 140, first_row=start)
        np.testing.assert_array_equal(part, whole[start:stop])
    np.testing.assert_array_equal(secure_noise(300, 9), whole[:, :9])


# --------------------------------------------------------------------------------- law of the noise


def fast_noise(
    rows: int,
    columns: int,
    *,
    key: tuple[int, int] = (1, 2),
    dtype: type = np.float64,
    first: int = 0,
) -> NDArray[np.floating]:
    out: NDArray[np.floating] = _core.project_fast(
        np.zeros((rows, 1), dtype), np.zeros((1, columns), dtype), 1.0, key, first
    )
    return out


SAMPLES = {
    "secure": lambda: secure_noise(1 << 17, 16),
    "secure, p = 1": lambda: secure_noise(1 << 20, 1),
    "fast float64": lambda: fast_noise(1 << 17, 16),
    "fast float32": lambda: fast_noise(1 << 17, 16, dtype=np.float32),
}


@pytest.fixture(params=SAMPLES, scope="module")
def sample(request: pytest.FixtureRequest) -> Array:
    return np.asarray(SAMPLES[request.param](), dtype=np.float64)


def test_moments_are_those_of_the_normal_law(sample: Array) -> None:
    n = sample.size
    # Standard errors of the first eight sample moments: sqrt((m_2k - m_k^2) / n). The grid adds
    # 2^-20/12 to the variance, far below the error.
    double_factorial = {
        0: 1,
        2: 1,
        4: 3,
        6: 15,
        8: 105,
        10: 945,
        12: 10395,
        14: 135135,
        16: 2027025,
    }
    for k in range(1, 9):
        moment = double_factorial.get(k, 0)
        error = np.sqrt((double_factorial[2 * k] - moment**2) / n)
        assert abs(np.mean(sample**k) - moment) < Z_LIMIT * error, k


def test_distribution_is_normal(sample: Array) -> None:
    # Kolmogorov-Smirnov; the grid of 2^-10 can add half a cell, 2e-4.
    n = sample.size
    distance = stats.kstest(sample.ravel(), "norm").statistic
    assert distance < np.sqrt(-np.log(0.5e-9) / (2 * n)) + 2e-4


def test_tails_are_normal(sample: Array) -> None:
    # Cells from the median to 5 sigma, on both sides, between points of the grid.
    edges = np.array([0.0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5]) + 2.0**-11
    edges = np.concatenate([[-np.inf], -edges[::-1], edges, [np.inf]])
    counts = np.histogram(sample, edges)[0]
    expected = sample.size * np.diff(stats.norm.cdf(edges))
    assert expected.min() > 3
    chi2 = np.sum((counts - expected) ** 2 / expected)
    assert chi2 < stats.chi2.isf(1e-9, len(counts) - 1)


def correlation(a: Array, b: Array) -> float:
    """Sample correlation in standard errors."""
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    return float(np.sqrt(a.size) * np.mean(a * b) / (a.std() * b.std()))


def test_numbers_are_uncorrelated_within_a_sample(sample: Array) -> None:
    for change in (np.asarray, np.square):  # squares: of the same radius, another angle
        values = change(sample)
        for row_lag in (0, 1, 2, 32):
            for column_lag in (0, 1, 2, 3, 4):
                if row_lag == column_lag == 0 or column_lag >= sample.shape[1]:
                    continue
                a = values[: len(values) - row_lag, : values.shape[1] - column_lag]
                b = values[row_lag:, column_lag:]
                assert abs(correlation(a, b)) < Z_LIMIT, (row_lag, column_lag)


def test_pairs_have_uniform_angles() -> None:
    noise = secure_noise(1 << 16, 4)
    for first, second in ((0, 1), (2, 3), (0, 2), (1, 3)):
        angle = np.arctan2(noise[:, second], noise[:, first]) / (2 * np.pi) % 1.0
        # Only the grid tells it from uniform: it favours angles by some 1e-3 near the origin.
        assert stats.kstest(angle, "uniform").statistic < np.sqrt(10.7 / angle.size) + 1e-3


def test_calls_keys_and_threads_are_independent() -> None:
    first = secure_noise(1 << 15, 8)
    other_key = bytes([KEY[0] ^ 1]) + KEY[1:]
    for other in (
        secure_noise(1 << 15, 8, key=other_key),
        secure_noise(1 << 15, 8, first_row=1 << 15),
        np.asarray(fast_noise(1 << 15, 8), dtype=np.float64),
    ):
        assert abs(correlation(first, other)) < Z_LIMIT
        assert abs(correlation(first**2, other**2)) < Z_LIMIT
        assert abs(np.sqrt(first.size / 2) * np.mean((first - other) ** 2 - 2)) < 4 * Z_LIMIT


# -------------------------------------------------------------------------------------- fast noise


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("key", [(0, 0), (1, 2), (2**64 - 1, 2**64 - 1), (2**40, 7)])
def test_fast_noise_comes_from_the_stated_block(
    isa: str, dtype: type, key: tuple[int, int]
) -> None:
    first = 2**32 - 3
    noise = fast_noise(6, 131, key=key, dtype=dtype, first=first)
    philox_key = reference.fast_key(*key)
    per_block = 4 if dtype is np.float32 else 2
    for row in range(6):
        number = first + row
        for group in range(-(-131 // per_block)):
            counter = (group, number & reference.MASK, number >> 32, 0)
            w = reference.philox4x32(counter, philox_key)
            if dtype is np.float32:
                uniforms = [((w[0] >> 8) + 0.5) / 2**24, ((w[2] >> 8) + 0.5) / 2**24]
                turns = [w[1] / 2**32, w[3] / 2**32]
            else:
                uniforms = [((w[0] << 32 | w[1]) + 0.5) / 2**64]
                turns = [(w[2] << 32 | w[3]) / 2**64]
            radii = np.sqrt(-2 * np.log(uniforms))
            expected = np.stack(
                [
                    radii * np.cos(2 * np.pi * np.array(turns)),
                    radii * np.sin(2 * np.pi * np.array(turns)),
                ],
                axis=1,
            ).ravel()
            stop = min(per_block, 131 - per_block * group)
            got = noise[row, per_block * group : per_block * group + stop]
            # Near u = 1, float32 rounds u itself: the radius is off by up to 2^-12.5 there.
            tolerance = 4e-4 if dtype is np.float32 else 2e-8
            np.testing.assert_allclose(got, expected[:stop], rtol=0, atol=tolerance)
            if max(uniforms) < 0.9:
                tolerance = 3e-6 if dtype is np.float32 else 1e-14
                np.testing.assert_allclose(got, expected[:stop], rtol=0, atol=tolerance)


# ----------------------------------------------------------------------------------------- shuffle


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 100, 1000])
def test_shuffle_equals_its_twin(rows: int) -> None:
    array = np.arange(3.0 * rows).reshape(rows, 3)
    expected = array[reference.shuffle(list(range(rows)), KEY)]
    _core.shuffle_rows(array, KEY)
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [1, 7])
def test_shuffle_keeps_rows_whole(dtype: type, columns: int) -> None:
    array = np.random.default_rng(0).normal(size=(500, columns)).astype(dtype)
    shuffled = array.copy()
    _core.shuffle_rows(shuffled, KEY)
    assert not np.array_equal(shuffled, array)
    assert sorted(map(tuple, shuffled.tolist())) == sorted(map(tuple, array.tolist()))


def test_shuffle_is_uniform() -> None:
    # All 24 orders of 4 rows, over 24,000 keys.
    counts: dict[tuple[float, ...], int] = {}
    for number in range(24_000):
        array = np.arange(4.0)[:, None]
        _core.shuffle_rows(array, struct.pack("<4Q", number, 0, 0, 7))
        order = tuple(array[:, 0].tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    chi2 = sum((count - 1000) ** 2 / 1000 for count in counts.values())
    assert chi2 < stats.chi2.isf(1e-9, 23)


def test_shuffle_sends_a_row_anywhere() -> None:
    # Row 0 of 64, over 12,800 keys: where does it end?
    places = np.zeros(64)
    for number in range(12_800):
        array = np.arange(64.0)[:, None]
        _core.shuffle_rows(array, struct.pack("<4Q", number, 1, 0, 7))
        places[np.flatnonzero(array[:, 0] == 0.0)[0]] += 1
    assert np.sum((places - 200) ** 2 / 200) < stats.chi2.isf(1e-9, 63)


def test_shuffle_refuses_what_it_cannot_do_in_place() -> None:
    frozen = np.zeros((3, 2))
    frozen.flags.writeable = False
    for array in (np.zeros((4, 4))[:, ::2], np.zeros((4, 4)).T[:3], frozen):
        with pytest.raises(ValueError, match="writeable and C-contiguous"):
            _core.shuffle_rows(array, KEY)
    with pytest.raises(ValueError, match="array must have 2 axes"):
        _core.shuffle_rows(np.zeros(3), KEY)
    with pytest.raises(ValueError, match="key must be 32 bytes"):
        _core.shuffle_rows(np.zeros((3, 2)), bytes(16))
