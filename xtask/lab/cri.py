"""Speaks as much CRI as a checkpoint needs, through curl: cri.py IMAGE ARCHIVE [ARGUMENT...]

Runs the pod shop/pod-a with a container "worker", waits until it says "ready", checkpoints it, and removes the pod. IMAGE may be
a checkpoint, or the path of an archive with one: then it is restored. HIDE=1 hides paths as a kubelet does, VOLUME=DIR mounts
a directory at /volume. LAB_COMMAND is run instead of the worker. Instead of a checkpoint it runs what
LAB_THEN says, with the container's ID as CONTAINER. Numbers are those
of the CRI's fields (kubernetes/cri-api, runtime.v1).
"""
import os
import subprocess
import sys
import time

from runtime_service import call, end, field

LOGS = "/var/log/pods/shop_pod-a"


def pair(key, value):
    return field(1, key) + field(2, value)


image, archive, arguments = sys.argv[1], sys.argv[2], sys.argv[3:]
os.makedirs(LOGS, exist_ok=True)
# Namespaces: network and IPC of the pod, PIDs of the container.
namespaces = field(1, 0) + field(2, 1) + field(3, 0)
identity = field(1, "pod-a") + field(2, "uid-1") + field(3, "shop") + field(4, 0)
sandbox = field(1, identity) + field(2, "pod-a") + field(3, LOGS) + field(6, pair("app", "web"))
sandbox += field(8, field(1, "/" + os.environ["LAB_NAME"]) + field(2, field(1, namespaces)))
pod = call("RunPodSandbox", field(1, sandbox))[1].decode()
container = field(1, field(1, "worker") + field(2, 0)) + field(2, field(1, image))
# A command replaces the image's, with its arguments.
command = os.environ.get("LAB_COMMAND", "").split()
container += b"".join(field(3, word) for word in command)
container += b"".join(field(4, argument) for argument in arguments if not command)
# containerd does not let CRIU dump established connections.
for variable in [("COLOUR", "blue"), ("PASSWORD", "hunter2"), ("ALONE", "1")]:
    container += field(6, pair(*variable))
container += field(9, pair("io.kubernetes.container.name", "worker")) + field(11, "worker.log")
security = field(3, namespaces)
if os.environ.get("HIDE"):
    security += b"".join(field(13, "/proc/" + path) for path in ["acpi", "keys", "timer_list"])
if os.environ.get("VOLUME"):
    container += field(7, field(1, "/volume") + field(2, os.environ["VOLUME"]))
container += field(15, field(2, security))
try:
    name = call("CreateContainer", field(1, pod) + field(2, container) + field(3, sandbox))[1].decode()
    call("StartContainer", field(1, name))
    for _ in range(600):
        if os.path.exists(LOGS + "/worker.log") and "ready" in open(LOGS + "/worker.log").read():
            break
        time.sleep(0.1)
    if "LAB_THEN" in os.environ:
        subprocess.run(["bash", "-ec", os.environ["LAB_THEN"]], check=True, env={**os.environ, "CONTAINER": name})
    else:
        call("CheckpointContainer", field(1, name) + field(2, archive) + field(3, 120))
finally:
    end(pod)
