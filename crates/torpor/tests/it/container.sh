#!/bin/bash
# container.sh DIR COMMAND…: run COMMAND as PID 1 of a container made for one start.
#
# Its root is a small image (the machine's /etc and an empty rest) below a layer that is new for every start: what a
# node gives a restarted pod. /usr is the machine's own, read-only, and so is every path in CONTAINER_SHOWS (colons
# between). DIR/volume is the volume that outlives it, at /volume. It has its own mount, PID, network and UTS namespaces,
# and it is entered by pivot_root because CRIU refuses a chroot. Its mounts go with its namespace.
set -euo pipefail
if [ "${1:-}" != --inside ]; then
    exec unshare --mount --pid --net --uts --fork --kill-child --propagation private -- "$0" --inside "$@"
fi
shift
dir=$1; shift
exec {making}> "$dir/image.lock"; flock "$making"
if [ ! -d "$dir/image" ]; then
    mkdir -p "$dir/volume" "$dir/image.new"/{dev,proc,sys,tmp,run,root,home,usr,volume,var/{lib,log,tmp,cache}}
    cp -a /etc "$dir/image.new/"
    for link in bin sbin lib lib64; do ln -s "usr/$link" "$dir/image.new/$link"; done
    mv "$dir/image.new" "$dir/image"
fi
exec {making}>&-
layer=$(mktemp -d "$dir/layer.XXXXXX"); mkdir "$layer"/{changed,work,root}; root=$layer/root
# Engines make roots with other permissions than each other: those of the first start are not those of later ones.
[ ! -e "$dir/started" ] || chmod 555 "$layer/changed"; touch "$dir/started"
mount -t overlay overlay -o "lowerdir=$dir/image,upperdir=$layer/changed,workdir=$layer/work" "$root"
IFS=: read -ra shows <<< "/usr:${CONTAINER_SHOWS:-}"
for path in "${shows[@]}"; do
    [ -z "$path" ] && continue
    if [ -d "$path" ]; then mkdir -p "$root$path"; else mkdir -p "$root${path%/*}"; touch "$root$path"; fi
    mount --bind "$path" "$root$path"; mount -o remount,bind,ro "$root$path"
done
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
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o mode=755 run "$root/run"
mount --rbind "$dir/volume" "$root/volume"
mkdir "$root/run/old"; cd "$root"; pivot_root . run/old; umount -l /run/old; rmdir /run/old; cd /
ip link set lo up
for fd in /proc/self/fd/*; do
    fd=${fd##*/}; [ "$fd" -gt 2 ] && eval "exec $fd>&-" 2>/dev/null || true
done
exec "$@"
