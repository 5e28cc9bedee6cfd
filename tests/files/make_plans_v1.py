"""The program that made plans-v1.json, once: the three schemes in plain Python integers.

It imports nothing of lanewise, and no test runs it: the file is what counts. See README.md.

    python make_plans_v1.py > plans-v1.json
"""

import hashlib
import json
import math
import random
import struct

MASK = 2**64 - 1


def threefry2x64_13(key, counter):
    """Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011); Random123 1.14."""
    rotations = (16, 42, 12, 31, 16, 32, 24, 21)
    keys = (key[0], key[1], 0x1BD11BDAA9FC1A22 ^ key[0] ^ key[1])
    x, y = (counter[0] + keys[0]) & MASK, (counter[1] + keys[1]) & MASK
    for i in range(13):
        x = (x + y) & MASK
        r = rotations[i % 8]
        y = ((y << r) | (y >> (64 - r))) & MASK ^ x
        if i % 4 == 3:
            s = i // 4 + 1
            x = (x + keys[s % 3]) & MASK
            y = (y + keys[(s + 1) % 3] + s) & MASK
    return x, y


assert threefry2x64_13((0, 0), (0, 0)) == (0xF167B032C3B480BD, 0xE91F9FEE4B7A6FB5)
assert threefry2x64_13((MASK, MASK), (MASK, MASK)) == (0xCCDEC5C917A874B1, 0x4DF53ABCA26CEB01)


def permute(key, ids, n_lanes, k_lane, alpha):
    dedicated = math.floor(alpha * k_lane + 0.5)
    shared = k_lane - dedicated
    budget = ids[: n_lanes * k_lane]
    order = sorted(budget, key=lambda i: (threefry2x64_13(key, (i, 1))[0], i))
    owners = {i: range(n_lanes) for i in order[:shared]}
    for position, i in enumerate(order[shared : shared + n_lanes * dedicated]):
        owners[i] = [position % n_lanes]
    return owners


def stratified(key, ids, n_lanes, k_lane, alpha):
    dedicated = math.floor(alpha * k_lane + 0.5)
    shared = k_lane - dedicated
    owners = {i: range(n_lanes) for i in ids[:shared]}
    for stratum in range(dedicated):
        begin = shared + stratum * n_lanes
        lanes = list(range(n_lanes))
        last = n_lanes - 1
        for step in range(n_lanes - 1):
            block = threefry2x64_13(key, (stratum, 2 + 256 * (step // 4)))
            word = block[step % 4 // 2] >> 32 * (step % 2) & 0xFFFFFFFF
            other = word * (last + 1) >> 32
            lanes[last], lanes[other] = lanes[other], lanes[last]
            last -= 1
        for i, lane in zip(ids[begin : begin + n_lanes], lanes, strict=False):
            owners[i] = [lane]
    return owners


def owner(key, ids, n_lanes, k_lane, alpha):
    threshold = int((1 - alpha) / (1 - alpha + alpha * n_lanes) * 2.0**64)
    owners = {}
    for i in ids:
        lane, share = threefry2x64_13(key, (i, 3))
        owners[i] = range(n_lanes) if share < threshold else [lane * n_lanes >> 64]
    return owners


def plan(scheme, key, pool, n_lanes, k_lane, alpha, head):
    ids = [i for i in pool if i >= 0]
    owners = scheme((key & MASK, key >> 64), ids, n_lanes, k_lane, alpha)
    lanes = [[] for _ in range(n_lanes)]
    for rank, i in enumerate(ids):
        takers = list(owners.get(i, ()))
        if rank < head and len(takers) == 1 and n_lanes > 1:
            takers.append((takers[0] + 1) % n_lanes)
        for lane in takers:
            if len(lanes[lane]) < k_lane:
                lanes[lane].append(i)
    return lanes


def query_key(vector):
    """128 bits of the little-endian float32 values, with -0 made +0, as one integer."""
    values = [0.0 if x == 0 else x for x in vector]
    packed = struct.pack(f"<{len(values)}f", *values)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=16).digest(), "little")


def main():
    rng = random.Random(20251121)
    keys = [0, 1, 1 << 64, 2**128 - 1] + [rng.getrandbits(128) for _ in range(4)]
    holes = rng.sample(range(10_000), 40)
    for place in (0, 3, 4, 17, 39):
        holes[place] = -1
    pools = {
        "64 ids": rng.sample(range(20_000), 64),
        "ranks as ids": list(range(24)),
        "with holes": holes,
        "large ids": [2**63 - 1 - i * 2**55 for i in range(30)],
        "longer than the budget": rng.sample(range(10**12), 100),
        "few": [7, 0, 3],
        "one": [5],
        "none": [],
        "holes only": [-1, -1],
    }
    options = [  # n_lanes, k_lane, alpha, head
        (4, 16, 1.0, 0),
        (4, 16, 0.5, 0),
        (4, 16, 0.0, 0),
        (4, 16, 1.0, 6),
        (4, 16, 0.3, 3),
        (1, 8, 1.0, 0),
        (1, 8, 0.5, 2),
        (2, 3, 1.0, 1),
        (3, 5, 0.75, 0),
        (5, 7, 0.9, 4),
        (6, 4, 1.0, 0),
        (7, 1, 1.0, 2),
        (8, 5, 0.1, 1),
        (9, 3, 1.0, 0),
        (14, 2, 1.0, 1),
        (20, 3, 1.0, 0),
    ]
    cases = []
    for scheme in (permute, stratified, owner):
        for number, (name, pool) in enumerate(pools.items()):
            few = name in ("few", "one", "none", "holes only")
            for i, (n_lanes, k_lane, alpha, head) in enumerate(options[:: 3 if few else 1]):
                key = keys[(number + i) % len(keys)]
                cases.append(
                    {
                        "scheme": scheme.__name__,
                        "key": f"{key:#034x}",
                        "n_lanes": n_lanes,
                        "k_lane": k_lane,
                        "alpha": alpha,
                        "head": head,
                        "pool": name,
                        "lanes": plan(scheme, key, pool, n_lanes, k_lane, alpha, head),
                    }
                )
    vectors = [
        [0.0],
        [-0.0],
        [1.0, -2.5, 3.25],
        [0.1, -0.0, 1e-45, 3e38],
        [float(x) for x in range(128)],
        [rng.gauss(0, 1) for _ in range(7)],
    ]
    query_keys = []
    for vector in vectors:
        packed = struct.pack(f"<{len(vector)}f", *vector)
        query_keys.append({"float32": packed.hex(), "key": f"{query_key(vector):#034x}"})
    document = {"format": "lanewise plans", "version": 1, "pools": pools, "plans": cases}
    document["query_keys"] = query_keys
    print_one_entry_a_line(document)


def print_one_entry_a_line(document):
    parts = []
    for name, part in document.items():
        text = json.dumps(part)
        if isinstance(part, list):
            text = "[\n" + ",\n".join(map(json.dumps, part)) + "\n]"
        elif isinstance(part, dict):
            entries = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in part.items())
            text = "{\n" + ",\n".join(entries) + "\n}"
        parts.append(f"{json.dumps(name)}: {text}")
    print("{\n" + ",\n".join(parts) + "\n}")


if __name__ == "__main__":
    main()
