#!/bin/bash
# container.sh DIR COMMAND…: run COMMAND as PID 1 of a container made for one start.
#
# Its root is the machine's own root, read-only below a layer that is new for every start: what a node gives a restarted
# pod. DIR/volume is the volume that outlives it (at /volume). It has its own mount, PID and network namespaces, and it
# is entered by pivot_root because CRIU refuses a chroot. Nothing is left behind: its mounts go with its namespace.
set -euo pipefail
if [ "${1:-}" != --inside ]; then
    exec unshare --mount --pid --net --uts --fork --kill-child --propagation private -- "$0" --inside "$@"
fi
shift
dir=$1; shift
layer=$(mktemp -d "$dir/layer.XXXXXX")
mkdir -p "$dir/volume" "$layer/changed" "$layer/work" "$layer/root"
root=$layer/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$layer/changed,workdir=$layer/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sys "$root/sys"
mount -t tmpfs -o mode=755 dev "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root"/dev/{pts,shm}
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"; ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o size=256m shm "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
for number in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${number%:*}" "$root/dev/${number#*:}"; done
mount -t tmpfs tmp "$root/tmp"
mount -t tmpfs -o mode=755 run "$root/run"
mkdir "$root/volume"; mount --bind "$dir/volume" "$root/volume"
mkdir "$root/run/old"; cd "$root"; pivot_root . run/old; umount -l /run/old; rmdir /run/old
ip link set lo up
cd /
for fd in /proc/self/fd/*; do
    fd=${fd##*/}; [ "$fd" -gt 2 ] && eval "exec $fd>&-" 2>/dev/null || true
done
exec "$@"
