#!/usr/bin/env python3
"""Prints the first weights of some tensors as `crates/convolution/src/weights.rs` must draw them.

A second implementation, from the definitions alone: ChaCha with 8 rounds (RFC 8439 with a counter and
a stream of 64 bits each), its key the seed and the XXH3 hash of the tensor's name; Box and Muller's
transform. Needs `pip install xxhash`.
"""

import math
import struct

import xxhash

MASK = 0xFFFFFFFF


def rotate(value, bits):
    return ((value << bits) | (value >> (32 - bits))) & MASK


def quarter_round(state, a, b, c, d):
    for first, second, third, bits in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)]:
        state[first] = (state[first] + state[second]) & MASK
        state[third] = rotate(state[third] ^ state[first], bits)


def block(key, counter, stream):
    start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574]
    start += struct.unpack("<8I", key)
    start += [counter & MASK, counter >> 32, stream & MASK, stream >> 32]
    state = list(start)
    for _ in range(4):
        for column in range(4):
            quarter_round(state, column, 4 + column, 8 + column, 12 + column)
        for diagonal in range(4):
            places = [4 * row + (diagonal + row) % 4 for row in range(4)]
            quarter_round(state, *places)
    return [(a + b) & MASK for a, b in zip(state, start)]


def fractions(seed, name, stream):
    key = struct.pack("<QQ", seed, xxhash.xxh3_64_intdigest(name.encode())) + bytes(16)
    counter = 0
    while True:
        words = block(key, counter, stream)
        for low, high in zip(words[::2], words[1::2]):
            yield ((high << 32 | low) >> 11) * 2.0**-53
        counter += 1


def normal(seed, name, count, stream=0):
    source = fractions(seed, name, stream)
    values = []
    while len(values) < count:
        radius = math.sqrt(-2.0 * math.log(1.0 - next(source)))
        angle = 2.0 * math.pi * next(source)
        values += [radius * math.cos(angle), radius * math.sin(angle)]
    return values


def uniform(seed, name, count, bound):
    source = fractions(seed, name, 0)
    return [(2.0 * next(source) - 1.0) * bound for _ in range(count)]


def show(label, values):
    print(label, ", ".join(f"{struct.unpack('f', struct.pack('f', v))[0]:.9g}" for v in values))


if __name__ == "__main__":
    # The tensors are 96×16×3×3: fan in 144, fan out 864.
    show("normal, seed 0, a.weight", normal(0, "a.weight", 4))
    show("normal, seed 0, a.weight, from 4096 on", normal(0, "a.weight", 4, stream=1))
    he = math.sqrt(2.0 / 864.0)
    show("He normal, seed 7, a.weight", [he * v for v in normal(7, "a.weight", 4)])
    show("uniform, seed 7, b.weight", uniform(7, "b.weight", 4, math.sqrt(3.0 / 144.0)))
