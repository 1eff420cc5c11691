# host.sh ROOT BINARIES: become a machine of its own, over the Debian root ROOT, with BINARIES at /run/torpor.
#
# Meant to be the first process of new mount, PID, IPC, UTS and network namespaces, so that all of it is gone when it is
# killed. The root is entered by pivot_root, because CRIU refuses a chroot. Nothing is written to ROOT.
set -eu
root=$1 binaries=$2
mount --make-rprivate /
# CRIU finds out about TCP by a connection to itself.
ip link set lo up
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs sys sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
# crun does not work where both versions of control groups are mounted.
if [ -e sys/fs/cgroup/unified ]; then umount sys/fs/cgroup/unified; fi
mount -t tmpfs -o mode=755 dev dev
for device in null zero full random urandom tty; do touch dev/$device; mount --bind /dev/$device dev/$device; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs shm dev/shm
mount -t tmpfs run run
mkdir run/torpor run/old
mount --bind "$binaries" run/torpor
pivot_root . run/old
umount -l /run/old
# Restored processes whose parents have ended are this one's: nobody may stay a zombie.
trap '' CHLD
echo ready
while :; do sleep 3600 & wait $!; done
