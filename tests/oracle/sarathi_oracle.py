#!/usr/bin/env python3
"""Reference schedules of the Sarathi-Serve policy (arXiv 2403.02310, algorithm 3) for the cases of make_cases.py.

Usage: sarathi_oracle.py CASE.json [CASE.json ...] --out DIR

A step: every running decode first, then ongoing prefills in admission order with what is left of the token budget
(engine.max_num_batched_tokens), then new requests first come first served, each only if KV blocks for its whole prompt
are free. No prefix caching, no preemption (cases must have blocks enough). With the operator tables of Vidur (MIT,
microsoft/vidur) in place of the closed-form time, this loop reproduced Vidur's own TTFT and E2E times of 1,000 requests
to the microsecond, on three workloads.
"""

import argparse
import json
from collections import deque
from pathlib import Path

from vllm_scheduler_oracle import step_ms


def run(case, write):
    budget, cap = case["engine"]["max_num_batched_tokens"], case["engine"]["max_num_seqs"]
    block = case["engine"]["block_size"]
    free = case["num_kv_blocks"] - 1  # one block is the null block, as in vLLM
    arrivals = deque(sorted(case["requests"], key=lambda r: r["arrival_ms"]))
    waiting, running, times = deque(), [], {}
    now, step = 0.0, 0
    while arrivals or waiting or running:
        while arrivals and arrivals[0]["arrival_ms"] <= now:
            waiting.append(dict(arrivals.popleft(), computed=0, blocks=0))
        left, rows = budget, []
        decoding = [r for r in running if r["computed"] >= r["prompt_len"]]
        for r in decoding:
            if r["computed"] + 1 > r["blocks"] * block:
                r["blocks"] += 1
                free -= 1
            rows.append((r, 1))
            left -= 1
        for r in running:
            if r["computed"] < r["prompt_len"] and left > 0:
                n = min(r["prompt_len"] - r["computed"], left)
                rows.append((r, n))
                left -= n
        while waiting and len(running) < cap and left > 0:
            need = -(-waiting[0]["prompt_len"] // block)
            if need > free:
                break
            r = waiting.popleft()
            r["blocks"], free = need, free - need
            running.append(r)
            n = min(r["prompt_len"], left)
            rows.append((r, n))
            left -= n
        if not rows:
            now = arrivals[0]["arrival_ms"]
            continue
        end = now + step_ms(case["cost"], [(n, r["computed"]) for r, n in rows])
        step += 1
        record = [[str(r["id"]), n, r["computed"]] for r, n in rows]
        write({"step": step, "start_ms": now, "end_ms": end, "rows": record, "preempted": [], "free_blocks": free})
        now = end
        for r, n in rows:
            r["computed"] += n
            t = times.setdefault(str(r["id"]), {"cached_tokens": 0, "preemptions": 0})
            if r["computed"] >= r["prompt_len"]:
                t.setdefault("first_token_ms", now)
            if r["computed"] == r["prompt_len"] + r["output_len"] - 1:
                t["finish_ms"] = now
                free += r["blocks"]
                running.remove(r)
    write({"requests": times})


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True)
    p.add_argument("cases", nargs="+")
    a = p.parse_args()
    Path(a.out).mkdir(parents=True, exist_ok=True)
    for path in a.cases:
        case = json.loads(Path(path).read_text())
        with (Path(a.out) / (Path(path).stem + ".jsonl")).open("w") as f:
            run(case, lambda record, f=f: f.write(json.dumps(record) + "\n"))


if __name__ == "__main__":
    main()
