#!/usr/bin/env python3
"""Run vLLM's own V1 scheduler in virtual time and write the schedule that it makes, one JSON line per step.

The scheduler, the KV-cache manager and the block pool are vLLM's, unchanged; only the model execution is replaced,
by a closed-form step time, so the result is the exact schedule that the engine makes for that workload.

Usage: vllm_scheduler_oracle.py --model DIR CASE.json [CASE.json ...] --out DIR [--max-steps N]
Without cases it takes their paths from stdin, one a line, and answers each with the path of its schedule on stdout.

CASE.json
  engine         vLLM engine arguments by their EngineArgs names (max_model_len, max_num_seqs, ...)
  num_kv_blocks  KV-cache blocks of block_size tokens, the null block counted in
  cost           step_ms = base + prefill_token*P + decode_seq*D + context_token*C, over the rows of the step (one row
                 a scheduled request): P sums the tokens of the rows that are no decode row, D counts the decode rows
                 (one token, something of the request already computed), C sums what each row had computed before
  accepted       with engine.speculative_config: drafts accepted by a verification, {id: [for each output token]}
  requests       [{"id", "arrival_ms", "prompt_len", "output_len", "priority"?, "prefix"?: [[name, length], ...]}]
                 'prefix' names the leading runs of the prompt: two prompts share tokens as far as their runs agree by
                 name and length; the rest of the prompt is unique to the request
OUT/<case>.jsonl: a line a step, {"step", "start_ms", "end_ms", "rows": [[id, tokens, context], ...], "preempted":
[ids], "free_blocks"}: rows in the order in which the scheduler took them, tokens computed in the step, context computed
before it; then {"requests": {id: {"first_token_ms", "finish_ms", "cached_tokens", "preemptions"}}}, and beside it
"stuck": true if vLLM would go on for ever with requests that never fit: nothing can be scheduled any more, or N steps
were made.
"""

import argparse
import json
import os
import sys
import zlib
from collections import deque
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


def prompt_tokens(request):
    """Token ids of a prompt: the named runs, then tokens unique to the request."""
    runs = [*(request.get("prefix") or [])]
    runs.append([f"request {request['id']}", request["prompt_len"] - sum(length for _, length in runs)])
    tokens = []
    for name, length in runs:
        seed = zlib.crc32(str(name).encode())
        tokens += [(seed + 7919 * i) % 4000 + 10 for i in range(length)]
    return tokens


def step_ms(cost, rows):
    """Closed-form time of a step whose rows are (tokens scheduled, tokens computed before)."""
    decode = sum(1 for n, before in rows if n == 1 and before > 0)
    prefill = sum(n for n, before in rows) - decode
    context = sum(before for _, before in rows)
    return (
        cost["base"] + cost["prefill_token"] * prefill + cost["decode_seq"] * decode + cost["context_token"] * context
    )


def build_scheduler(model, case):
    """vLLM's configuration, scheduler and block hasher (None without prefix caching) for a case."""
    import torch
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    args = dict(case["engine"])
    stages, ahead = args.pop("pipeline_parallel_size", 1), args.pop("async_scheduling", None)
    if "speculative_config" in args:
        args["speculative_config"] = speculative_config(args["speculative_config"], model)
    os.environ.pop("VLLM_USE_V2_MODEL_RUNNER", None)
    config = EngineArgs(model=model, load_format="dummy", **args).create_engine_config()
    # The CPU platform has no async scheduling, no stages and not the model runner of a GPU, but the schedule is what is
    # wanted here.
    if ahead is not None:
        config.scheduler_config.async_scheduling = ahead
    config.parallel_config.pipeline_parallel_size = stages
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"
    block_size = config.cache_config.block_size
    config.cache_config.num_gpu_blocks = case["num_kv_blocks"]
    spec = FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=64, dtype=torch.bfloat16)
    kv_cache = KVCacheConfig(
        num_blocks=case["num_kv_blocks"], kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
    )
    scheduler = config.scheduler_config.get_scheduler_cls()(
        vllm_config=config,
        kv_cache_config=kv_cache,
        structured_output_manager=StructuredOutputManager(config),
        block_size=block_size,
        log_stats=True,
    )
    hasher = None
    if config.cache_config.enable_prefix_caching:
        init_none_hash(sha256)
        lookahead = getattr(config, "num_hash_lookahead_tokens", 0)  # since 0.33
        hasher = get_request_block_hasher(block_size, sha256, *([lookahead] if lookahead else []))
    return config, scheduler, hasher


def speculative_config(given, model):
    """What vLLM needs to make its configuration: the acceptance is the harness's, and any model drafts."""
    config = {key: value for key, value in given.items() if not key.startswith(("synthetic_", "rejection_"))}
    if config["method"] in ("ngram", "ngram_gpu"):
        return config | {"prompt_lookup_max": 3}
    return config | {"model": model}


def steps_in_flight(config):
    """How many steps the engine schedules ahead; before 0.23 the executor said so, not the configuration."""
    if hasattr(config, "max_concurrent_batches"):
        return config.max_concurrent_batches
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor

    executor = MultiprocExecutor.__new__(MultiprocExecutor)
    executor.parallel_config, executor.scheduler_config = config.parallel_config, config.scheduler_config
    return executor.max_concurrent_batches


class VirtualEngine:
    """A scheduler, the requests it has, and what became of them."""

    def __init__(self, model, case, write):
        self.config, self.scheduler, self.hasher = build_scheduler(model, case)
        self.cost, self.accepted, self.write = case["cost"], case.get("accepted"), write
        self.depth = steps_in_flight(self.config)
        self.schedules_past_empty = hasattr(self.config, "max_concurrent_batches")  # since 0.23, as that is
        stages = self.config.parallel_config.pipeline_parallel_size
        self.arrivals = deque(sorted(case["requests"], key=lambda r: r["arrival_ms"]))
        self.live, self.first, self.done, self.cached, self.preemptions = {}, {}, {}, {}, {}
        self.in_flight = deque()
        self.now, self.stage_free = 0.0, [0.0] * stages
        self.sampled_at = {}
        self.step = 0

    def run(self, max_steps):
        """Until every request is done; returns whether some never will be."""
        while self.step < max_steps:
            self.add_arrivals()
            if not self.scheduler.has_requests() and not self.in_flight:
                if not self.arrivals:
                    return False
                self.now = self.arrivals[0]["arrival_ms"]
                continue
            if self.scheduler.has_requests():
                tokens, preempted = self.schedule()
                if not tokens and not preempted and self.is_stuck():
                    return True
                if len(self.in_flight) < self.depth and (
                    tokens or (self.schedules_past_empty and self.scheduler.has_requests())
                ):
                    continue
            self.end_step(*self.in_flight.popleft())
        return True

    def add_arrivals(self):
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        while self.arrivals and self.arrivals[0]["arrival_ms"] <= self.now:
            r = self.arrivals.popleft()
            rid = str(r["id"])
            self.live[rid] = Request(
                request_id=rid,
                prompt_token_ids=prompt_tokens(r),
                pooling_params=None,
                sampling_params=SamplingParams(max_tokens=r["output_len"], ignore_eos=True, temperature=0.0),
                arrival_time=r["arrival_ms"] / 1e3,
                priority=r.get("priority", 0),
                block_hasher=self.hasher,
            )
            self.preemptions[rid] = 0
            self.scheduler.add_request(self.live[rid])

    def schedule(self):
        """One call of the scheduler; returns tokens by request and the requests preempted."""
        live = self.live
        known = {rid: req.num_tokens + req.num_output_placeholders for rid, req in live.items()}
        running = {req.request_id for req in self.scheduler.running}
        output = self.scheduler.schedule()
        tokens = dict(output.num_scheduled_tokens)
        context = {rid: live[rid].num_computed_tokens - n for rid, n in tokens.items()}
        # a row samples when it reaches the end of what the request knows
        samples = {rid for rid, n in tokens.items() if context[rid] + n >= known[rid]}
        preempted = [rid for rid, req in live.items() if req.num_preemptions > self.preemptions[rid]]
        for rid in preempted:
            self.preemptions[rid] = live[rid].num_preemptions
        for new in output.scheduled_new_reqs:
            self.cached.setdefault(new.req_id, context[new.req_id])
        start = end = max(self.now, self.stage_free[0], *self.inputs_known(tokens))
        if tokens:
            end = self.run_stages(start, step_ms(self.cost, [(tokens[r], context[r]) for r in tokens]))
            self.sampled_at.update(dict.fromkeys(samples, end))
            self.step += 1
            self.write_step(start, end, tokens, context, preempted)
        # the drafts of a request that was just admitted are padding
        drafts = {rid: len(ids) for rid, ids in output.scheduled_spec_decode_tokens.items() if rid in running}
        self.in_flight.append((end, output, tokens, samples, drafts))
        return tokens, preempted

    def inputs_known(self, tokens):
        """When the last stage has sampled what the first one needs (vllm/v1/worker/gpu/pp_utils.py): a request's next
        row may be scheduled before."""
        return [self.sampled_at.get(rid, 0.0) for rid in tokens] if len(self.stage_free) > 1 else []

    def run_stages(self, start, duration):
        """Each pipeline stage takes an equal share of the step, one step at a time; returns the end of the last."""
        end = start
        for stage, free in enumerate(self.stage_free):
            end = self.stage_free[stage] = max(end, free) + duration / len(self.stage_free)
        return end

    def write_step(self, start, end, tokens, context, preempted):
        self.write(
            {
                "step": self.step,
                "start_ms": start,
                "end_ms": end,
                "rows": [[rid, n, context[rid]] for rid, n in tokens.items()],
                "preempted": preempted,
                "free_blocks": self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
            }
        )

    def is_stuck(self):
        """Whether the next schedule is as empty as this one: requests wait, nothing runs that could free blocks."""
        return bool(self.live) and not self.scheduler.running and not any(flight[2] for flight in self.in_flight)

    def sampled(self, rid, drafts):
        """Token ids that a verified row gives: the accepted drafts and one more."""
        accepted = min(drafts, self.accepted[rid][self.live[rid].num_output_tokens]) if drafts else 0
        return [77] * (1 + accepted)

    def draft(self, ids):
        """Without async scheduling the scheduler is told what was drafted; with it the worker keeps that."""
        from vllm.v1.outputs import DraftTokenIds

        tokens = [77] * self.scheduler.num_spec_tokens
        if tokens and ids and not self.config.scheduler_config.async_scheduling:
            self.scheduler.update_draft_token_ids(DraftTokenIds(list(ids), [list(tokens) for _ in ids]))

    def end_step(self, end, output, tokens, samples, drafts):
        from vllm.v1.outputs import ModelRunnerOutput

        self.now = max(self.now, end)
        ids = list(tokens)
        result = self.scheduler.update_from_output(
            output,
            ModelRunnerOutput(
                req_ids=ids,
                req_id_to_index={rid: k for k, rid in enumerate(ids)},
                sampled_token_ids=[
                    self.sampled(rid, drafts.get(rid, 0)) if rid in samples and rid in self.live else [] for rid in ids
                ],
            ),
        )
        self.draft(ids)
        for client in result.values():
            for o in client.outputs:
                if o.new_token_ids:
                    self.first.setdefault(o.request_id, self.now)
                if o.finish_reason is not None:
                    self.done[o.request_id] = self.now
                    del self.live[o.request_id]

    def outcome(self):
        """What became of every request that arrived."""
        return {
            rid: {
                "first_token_ms": self.first.get(rid),
                "finish_ms": self.done.get(rid),
                "cached_tokens": self.cached.get(rid),
                "preemptions": n,
            }
            for rid, n in self.preemptions.items()
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--max-steps", type=int, default=10**9)
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    Path(args.out).mkdir(parents=True, exist_ok=True)
    for path in args.cases or map(str.strip, sys.stdin):
        out = Path(args.out) / (Path(path).stem + ".jsonl")
        write_schedule(args.model, json.loads(Path(path).read_text()), out, args.max_steps)
        if not args.cases:
            print(out, flush=True)


def write_schedule(model, case, out, max_steps):
    with out.open("w") as f:
        engine = VirtualEngine(model, case, lambda record: f.write(json.dumps(record) + "\n"))
        stuck = {"stuck": True} if engine.run(max_steps) else {}
        f.write(json.dumps({"requests": engine.outcome()} | stuck) + "\n")


if __name__ == "__main__":
    sys.exit(main())
