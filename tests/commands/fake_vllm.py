#!/usr/bin/env -S python3 -u
"""A `vllm` command without a model: serves completions at a steady pace, in the shape that slotune's client reads.

It refuses to start with --max-num-seqs 13, as an engine that runs out of memory would. SLOTUNE_FAKE_PIDS names a file
that gets its process id, so that a test can see that it is gone.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FIRST_TOKEN_S, NEXT_TOKEN_S = 0.01, 0.002


class Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for token in range(asked["max_tokens"]):
            time.sleep(FIRST_TOKEN_S if token == 0 else NEXT_TOKEN_S)
            self._event({"choices": [{"index": 0, "text": "w"}]})
        counts = {"prompt_tokens": len(asked["prompt"]), "completion_tokens": asked["max_tokens"]}
        self._event({"choices": [], "usage": counts})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, content: dict[str, object]) -> None:
        self.wfile.write(b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n")
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        pass


def main(words: list[str]) -> None:
    if words == ["--version"]:
        print("0.32.0")
        return
    if words[0] != "serve":
        sys.exit(2)
    if "--max-num-seqs" in words and words[words.index("--max-num-seqs") + 1] == "13":
        sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 13.00 GiB.")
    if pids := os.environ.get("SLOTUNE_FAKE_PIDS"):
        with Path(pids).open("a") as file:
            file.write(f"{os.getpid()}\n")
    facts = {"num_gpu_blocks": 1000, "block_size": 16, "max_model_len": 8192, "dtype": "bfloat16"}
    Path(os.environ["SLOTUNE_FACTS"]).write_text(json.dumps(facts))
    ThreadingHTTPServer(("127.0.0.1", int(words[words.index("--port") + 1])), Engine).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
