#!/bin/sh
# Run inside the new system while it is made: turns a plain installation into the common base of installer and target.
set -e
export LC_ALL=C.UTF-8
# No archive: mmdebstrap packs such a sparse file in a way that mksquashfs 4.7.5 cannot read.
localedef --no-archive -i en_US -f UTF-8 en_US.UTF-8

# Names and places of Enterprise Linux; what is a release's own comes from its target/ (installer/release/identity.py).
mkdir -p /etc/sysconfig /usr/libexec/openssh
ln -sf ../selinux/config /etc/sysconfig/selinux
ln -sf /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server
rm -f /usr/lib/systemd/system/ssh.service /usr/lib/systemd/system/ssh.socket \
    /usr/lib/systemd/system/ssh@.service /usr/lib/systemd/system/rescue-ssh.target \
    /etc/systemd/system/sshd.service /etc/systemd/system/multi-user.target.wants/ssh.service /etc/init.d/ssh
mv /usr/lib/systemd/system/chrony.service /usr/lib/systemd/system/chronyd.service
sed -i 's/^Alias=.*//' /usr/lib/systemd/system/chronyd.service
rm -f /etc/systemd/system/chronyd.service /etc/systemd/system/multi-user.target.wants/chrony.service /etc/init.d/chrony
groupadd -r wheel
chmod 0440 /etc/sudoers.d/wheel
mkdir -p /var/lib/rehearsal

systemctl disable chronyd.service 2>/dev/null || true
systemctl set-default multi-user.target
systemctl mask e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer apt-daily.timer \
    apt-daily-upgrade.timer systemd-pstore.service sys-kernel-debug.mount sys-kernel-tracing.mount \
    dev-hugepages.mount dev-mqueue.mount sys-kernel-config.mount systemd-binfmt.service \
    proc-sys-fs-binfmt_misc.automount sys-fs-fuse-connections.mount 2>/dev/null

# Python that need not look at its sources: every stat counts without KVM.
python3 -m compileall -q --invalidation-mode unchecked-hash /opt/rehearsal

# What a machine makes for itself, and what the host left here.
rm -f /etc/ssh/ssh_host_* /etc/resolv.conf /etc/hostname /var/lib/dbus/machine-id /etc/machine-id /etc/.pwd.lock
: >/etc/machine-id
: >/etc/resolv.conf
echo localhost.localdomain >/etc/hostname
printf '127.0.0.1   localhost localhost.localdomain localhost4 localhost4.localdomain4\n::1         localhost localhost.localdomain localhost6 localhost6.localdomain6\n' >/etc/hosts
rm -rf /var/lib/apt/lists /var/cache/apt /var/cache/debconf /var/log/apt /var/log/dpkg.log /var/log/bootstrap.log \
    /var/log/alternatives.log /usr/share/doc /usr/share/man /usr/share/info /usr/share/locale /usr/share/i18n \
    /usr/share/bug /usr/share/lintian /usr/share/zoneinfo/right /usr/lib/udev/hwdb.d /usr/lib/udev/hwdb.bin \
    /usr/lib/python3*/test /usr/lib/python3*/idlelib /usr/lib/python3*/ensurepip /usr/lib/python3*/lib2to3 \
    /usr/lib/python3*/pydoc_data /usr/lib/python3*/distutils /var/lib/systemd/random-seed
mkdir -p /var/cache/debconf
find / -xdev -name __pycache__ -path '/usr/share/*' -prune -exec rm -rf {} +
# Nothing newer than this: the first boot need not rebuild caches.
touch /etc/.updated /var/.updated
