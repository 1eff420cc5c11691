//! What is a pod's own and another in the next one: its address, its projected volumes, its control groups.

use std::os::unix::fs::symlink;

use super::node::{Cluster, Node};

/// Listens on the pod's own address, holds open what belongs to the pod, and tells of it whoever connects.
const WITNESS: &str = r"
import os, socket
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.connect(('10.88.77.1', 9))
address = probe.getsockname()[0]
probe.close()
listener = socket.socket()
listener.bind((address, 7000))
listener.listen()
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind((address, 7001))
account = '/var/run/secrets/kubernetes.io/serviceaccount'
token, hosts = open(account + '/token'), open('/etc/hosts')
directory = os.open(account + '/..data', os.O_RDONLY)
group = next(path for path in ('/sys/fs/cgroup/memory/cgroup.procs', '/sys/fs/cgroup/cgroup.procs') if os.path.exists(path))
group = open(group)
told = 0
print('ready', flush=True)
while True:
    connection, _ = listener.accept()
    told += 1
    token.seek(0); hosts.seek(0); group.seek(0)
    inside = os.open('token', os.O_RDONLY, dir_fd=directory)
    said = [str(told), token.read(), os.read(inside, 99).decode(), hosts.read(), str(len(group.read()) > 0), datagrams.getsockname()[0]]
    os.close(inside)
    connection.sendall('|'.join(said).encode())
    connection.close()
";

/// What the program says to whoever connects to an address.
const ASK: &str =
    "import socket, sys; print(socket.create_connection((sys.argv[1], 7000), 5).makefile().read(), end='')";

/// What a kubelet makes for a pod: a volume with a token, and the file of hosts.
fn kubelets(node: &Node<'_>, uid: &str, dated: &str) -> [String; 2] {
    let pod = format!("/run/kubelet/pods/{uid}");
    let volume = format!("{pod}/volumes/kubernetes.io~projected/kube-api-access");
    let here = node.path(&volume);
    std::fs::create_dir_all(here.join(dated)).unwrap();
    // Of another length in each pod, as tokens are.
    std::fs::write(here.join(dated).join("token"), format!("token of {uid} of {dated}")).unwrap();
    symlink(dated, here.join("..data")).unwrap();
    symlink("..data/token", here.join("token")).unwrap();
    std::fs::write(node.path(&format!("{pod}/etc-hosts")), format!("127.0.0.1 localhost {uid}")).unwrap();
    [format!("{volume}:/var/run/secrets/kubernetes.io/serviceaccount"), format!("{pod}/etc-hosts:/etc/hosts")]
}

#[test]
fn a_listener_moves_to_the_new_pods_address_and_its_token_is_the_new_pods() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.node();
    let mut addresses = Vec::new();
    for (number, (uid, dated)) in
        [("1111", "..2026_11_21_10_00_00.123456789"), ("22222", "..2026_11_22_08_30_00.42")]
            .into_iter()
            .enumerate()
    {
        let pod = node.pod(&["run", "shop", "web", uid, "torpor", "torpor.dev/restore=shop/web"]);
        let address = node.pod(&["address", &pod]);
        let [volume, hosts] = kubelets(&node, uid, dated);
        let words = ["create", &pod, "app", "localhost/worker:1", "--mount", &volume, "--mount", &hosts];
        let program = ["--", "/bin/python3", "-c", WITNESS];
        let container = node.pod(&[&words[..], &program].concat());
        node.pod(&["start", &container]);
        let log = format!("/var/log/pods/shop_web_{uid}/app_0.log");
        if number == 0 {
            node.wait_until("it listens", || node.log(&log) == ["ready"]);
        }
        let said = node.run(&["python3", "-c", ASK, &address]);
        let token = format!("token of {uid} of {dated}");
        let expected = format!("{}|{token}|{token}|127.0.0.1 localhost {uid}|True|{address}", number + 1);
        assert_eq!(said, expected);
        assert!(number == 0 || node.log(&log).is_empty(), "it has begun again");
        node.keep(&container, "shop/web", &["--leave-running"]);
        addresses.push(address);
    }
    assert_ne!(addresses[0], addresses[1]);
}
