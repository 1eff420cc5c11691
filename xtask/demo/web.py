"""A web server that would lose everything at a restart: a counter, eight working threads, its uptime."""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

started = time.monotonic()
counter = 0
work = [0] * 8
lock = threading.Lock()


def toil(index):
    while True:
        work[index] += 1
        time.sleep(0.01)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        global counter
        with lock:
            if self.path == "/count":
                counter += 1
            state = {
                "counter": counter,
                "threads": sum(thread.name.startswith("toil") for thread in threading.enumerate()),
                "least_work": min(work),
                "uptime": round(time.monotonic() - started, 1),
            }
        body = json.dumps(state).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


for index in range(8):
    threading.Thread(target=toil, args=(index,), name=f"toil-{index}", daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
