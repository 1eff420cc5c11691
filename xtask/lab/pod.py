"""Speaks CRI to containerd, or whoever listens at CRI_SOCKET, through curl; one call a run. Annotations and variables are KEY=VALUE.

    pod.py run NAMESPACE NAME UID HANDLER [ANNOTATION...]          makes a sandbox; prints its ID
    pod.py create POD NAME IMAGE [--attempt N] [--annotation A]... [--env E]... [--mount HOST:PLACE]... [--seccomp default] -- WORD...
                                                                   makes a container; prints its ID
    pod.py start | remove CONTAINER,  stop CONTAINER [SECONDS]
    pod.py exec CONTAINER WORD...                                  prints what it prints, ends as it ends
    pod.py status CONTAINER                                        prints state, exit code, reason and message
    pod.py address POD                                             prints the sandbox's address
    pod.py end POD                                                 stops and removes a sandbox

Numbers are those of the CRI's fields (kubernetes/cri-api, runtime.v1).
"""
import os
import sys

from runtime_service import call, end, field, fields

STATES = ["created", "running", "exited", "unknown"]
# Network, IPC and the like of the pod, PIDs of the container.
NAMESPACES = {1: 0, 2: 1, 3: 0}
# What a kubelet has covered up and read-only (kubernetes, `pkg/securitycontext/util.go`).
MASKED = ["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
          "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def message(numbers):
    return b"".join(field(number, value) for number, value in numbers.items())


def pairs(number, texts):
    return b"".join(field(number, message(dict(zip((1, 2), text.split("=", 1))))) for text in texts)


def kept(pod):
    """The configuration of a sandbox, which has to be given again for each container."""
    return f"/run/pod-{pod}"


def run(namespace, name, uid, handler, *annotations):
    logs = f"/var/log/pods/{namespace}_{name}_{uid}"
    os.makedirs(logs, exist_ok=True)
    config = field(1, message({1: name, 2: uid, 3: namespace})) + message({2: name, 3: logs}) + pairs(7, annotations)
    config += field(8, field(1, "/" + os.environ["LAB_NAME"]) + field(2, field(1, message(NAMESPACES))))
    pod = call("RunPodSandbox", field(1, config) + field(2, handler))[1].decode()
    open(kept(pod), "wb").write(config)
    print(pod)


def create(pod, name, image, *words):
    given = {"--attempt": ["0"], "--annotation": [], "--env": [], "--mount": [], "--seccomp": []}
    words = list(words)
    while words and words[0] in given:
        given[words[0]].append(words[1])
        words = words[2:]
    config = field(1, field(1, name) + field(2, int(given["--attempt"][-1]))) + field(2, field(1, image) + field(18, image))
    config += b"".join(field(3, word) for word in words[1:])
    config += pairs(6, given["--env"])
    for mount in given["--mount"]:
        host, place = mount.split(":")
        config += field(7, field(1, place) + field(2, host))
    said = fields(fields(open(kept(pod), "rb").read())[1])
    labels = [f"io.kubernetes.pod.{key}={said[number].decode()}" for number, key in enumerate(("name", "uid", "namespace"), 1)]
    config += pairs(9, ["io.kubernetes.container.name=" + name] + labels) + pairs(10, given["--annotation"])
    security = field(3, message(NAMESPACES)) + b"".join(field(13, path) for path in MASKED)
    security += b"".join(field(14, path) for path in READ_ONLY)
    if given["--seccomp"]: # the engine's default
        security += field(15, b"")
    config += field(11, f"{name}_{given['--attempt'][-1]}.log") + field(15, field(2, security))
    print(call("CreateContainer", field(1, pod) + field(2, config) + field(3, open(kept(pod), "rb").read()))[1].decode())


def start(container):
    call("StartContainer", field(1, container))


def stop(container, seconds="10"):
    call("StopContainer", field(1, container) + field(2, int(seconds)))


def remove(container):
    call("RemoveContainer", field(1, container))


def exec(container, *words):
    said = call("ExecSync", field(1, container) + b"".join(field(2, word) for word in words) + field(3, 20))
    sys.stdout.write(said.get(1, b"").decode())
    sys.stderr.write(said.get(2, b"").decode())
    sys.exit(said.get(3, 0))


def status(container):
    said = fields(call("ContainerStatus", field(1, container))[1])
    text = [said.get(number, b"").decode() for number in (10, 11)]
    print(STATES[said.get(3, 0)], said.get(7, 0), *text)


def address(pod):
    network = fields(fields(call("PodSandboxStatus", field(1, pod))[1])[5])
    print(network[1].decode())


globals()[sys.argv[1]](*sys.argv[2:])
