"""The CRI's RuntimeService at containerd's socket, or that of CRI_SOCKET, spoken through curl. Numbers are those of the CRI's fields
(kubernetes/cri-api, runtime.v1).
"""
import os
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse

SOCKET = os.environ.get("CRI_SOCKET", "/run/containerd/containerd.sock")


def varint(number):
    out = b""
    while True:
        low, number = number & 127, number >> 7
        out += bytes([low | (128 if number else 0)])
        if not number:
            return out


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(data):
    """The fields of a message, the last of each number."""
    found, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte, at = data[at], at + 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = number()
        if key & 7 == 0:
            found[key >> 3] = number()
        else:
            length = number()
            found[key >> 3], at = data[at : at + length], at + length
    return found


def call(method, body):
    with tempfile.NamedTemporaryFile() as sent, tempfile.NamedTemporaryFile() as head:
        sent.write(b"\0" + struct.pack(">I", len(body)) + body)
        sent.flush()
        words = ["curl", "-sS", "--unix-socket", SOCKET, "--http2-prior-knowledge", "-H", "content-type: application/grpc"]
        words += ["-H", "te: trailers", "--data-binary", "@" + sent.name, "-D", head.name]
        answer = subprocess.run(words + [f"http://localhost/runtime.v1.RuntimeService/{method}"], stdout=subprocess.PIPE).stdout
        said = open(head.name).read()
        if "grpc-status: 0" not in said:
            sys.exit(f"{method} failed: {urllib.parse.unquote(said)}")
        return fields(answer[5:])


def end(pod):
    """Stops a sandbox and removes it. Like a kubelet it asks again: containerd may fail while it learns that a container ended."""
    for left in reversed(range(50)):
        try:
            call("StopPodSandbox", field(1, pod))
            break
        except SystemExit:
            if left == 0:
                raise
            time.sleep(0.1)
    call("RemovePodSandbox", field(1, pod))
