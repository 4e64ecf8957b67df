#!/bin/sh
# Run a command as root in a root file system, in namespaces of its own: enter.sh ROOT HOSTNAME FOLDER COMMAND...
# Starts as process 1 of `unshare --mount --pid --fork --ipc --uts`. Of the machine outside it keeps the network only;
# when the command ends, every process that it left behind ends, too, and with the last of them every mount.
set -eu
root=$1 name=$2 folder=$3
shift 3

mount --bind "$root" "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t sysfs -o nosuid,nodev,noexec sysfs "$root/sys"
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs "$root/run"
# Debian's own /run has it, and libvirt of an ordinary user needs it.
mkdir -m 1777 "$root/run/lock"
mount -t tmpfs -o mode=0755,nosuid tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/net"
# No kvm: what is proved here is the same on every machine.
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 net/tun:10:200; do
    numbers=${node#*:}
    mknod -m 0666 "$root/dev/${node%%:*}" c "${numbers%:*}" "${numbers#*:}"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for number in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${number%:*}" "$root/dev/${number#*:}"; done
hostname "$name"

cd "$root"
mkdir -p .outside
pivot_root . .outside
cd /
umount -l /.outside
rmdir /.outside
cd "$folder"
# Not exec: process 1 has to collect the orphans.
"$@" </dev/null
