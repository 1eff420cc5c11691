"""A program with a bit of everything, whose checkpoint is looked into: worker.py MIB"""
import mmap
import os
import random
import socket
import sys
import threading
import time

mib = int(sys.argv[1])
os.makedirs("/data", exist_ok=True)
log = open("/data/progress.log", "w")
log.write("began\n")
log.flush()
if os.path.exists("/etc/removed"):
    os.unlink("/etc/removed")
open("/etc/motd", "w").write("changed\n")
gone = open("/data/deleted-while-open", "w+")
gone.write("ghost")
gone.flush()
os.unlink(gone.name)
listener = socket.socket()
listener.bind(("127.0.0.1", 7070))
listener.listen()
if not os.environ.get("ALONE"):
    client = socket.create_connection(("127.0.0.1", 7070))
    server, _ = listener.accept()
    client.sendall(b"queued bytes in a socket")
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 5353))
unix = socket.socket(socket.AF_UNIX)
unix.bind("/data/worker.sock")
unix.listen()
pair = socket.socketpair()
reading, writing = os.pipe()
os.write(writing, b"bytes in a pipe")
shared = mmap.mmap(-1, 1 << 20)
shared[:11] = b"shared text"
# The needle is put together here, so that it is in memory once, and in no constant.
needle = "-".join(["needle", "in", "haystack!"]).encode()
block = bytearray(mib << 20)
random_bytes = random.Random(42)
for at in range(0, len(block), 1 << 20):
    block[at : at + (1 << 20)] = random_bytes.randbytes(1 << 20)
if block:
    block[-4096 : -4096 + len(needle)] = needle
if os.fork() == 0:
    os.execve("/bin/sleep", ["sleep", "100000"], {"CHILD": "yes"})
threading.Thread(target=lambda: time.sleep(1e6), daemon=True).start()
log.write("ready\n")
log.flush()
print("ready", flush=True)
while True:
    time.sleep(1)
