"""A program to freeze: fills memory, says "ready", then beats every millisecond and says each gap longer than that should be, in
microseconds: heartbeat.py MIB"""
import random
import sys
import time

mib = int(sys.argv[1])
memory = bytearray(mib << 20)
source = random.Random(1)
for at in range(0, len(memory), 1 << 20):
    memory[at : at + (1 << 20)] = source.randbytes(1 << 20)
print("ready", flush=True)
last = time.monotonic()
while True:
    time.sleep(0.001)
    now = time.monotonic()
    if now - last >= 0.005:
        print("gap", int((now - last) * 1e6), flush=True)
    last = now
