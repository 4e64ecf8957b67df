#!/bin/sh
# Takes away what made this machine this machine; afterwards it is switched off and becomes an image.
# Only tools of a minimal EL7 are used; what later releases have instead is looked up.
set -u
PATH=/usr/sbin:/usr/bin:/sbin:/bin

# Host keys are overwritten where they lie: a file that is only unlinked could still be read from the raw disk.
for key in /etc/ssh/ssh_host_*; do
    [ -f "$key" ] && shred -n 1 -u "$key"
done
find /root /home -maxdepth 3 -path '*/.ssh/authorized_keys' -type f -delete
find /root /home -maxdepth 2 \( -name .bash_history -o -name .lesshst -o -name .viminfo \) -type f -delete
rm -rf /root/.ansible /var/tmp/builder-provision /tmp/* /var/tmp/*
rm -rf /var/cache/yum/* /var/cache/dnf/* /var/cache/libdnf5/* /var/lib/dhclient/* /var/lib/dhcp/*.leases /var/lib/NetworkManager/*.lease
# What cloud-init knows of this machine; its own way leaves a seed that somebody put into the image.
! command -v cloud-init > /dev/null || cloud-init clean
rm -rf /var/lib/cloud/instance /var/lib/cloud/instances /var/lib/cloud/data /var/lib/cloud/sem /var/log/journal/*
rm -f /var/lib/NetworkManager/secret_key /var/lib/systemd/random-seed /etc/udev/rules.d/70-persistent-*
rm -f /var/lib/builder/instance-id
for file in /etc/sysconfig/network-scripts/ifcfg-eth* /etc/NetworkManager/system-connections/*.nmconnection; do
    [ -e "$file" ] && sed -i -E '/^(HWADDR|UUID|uuid|mac-address)=/d' "$file"
done
find /var/log -xdev -type f -exec truncate -s 0 {} +
echo localhost.localdomain > /etc/hostname
# Present and empty: systemd fills it at the first boot.
: > /etc/machine-id
restorecon /etc/machine-id /etc/hostname 2> /dev/null

# What was freed is given back, so that nothing of it can be found in the image. A disk that takes no discards is
# filled with zeros instead.
sync
fstrim / || {
    dd if=/dev/zero of=/zeros bs=1M 2> /dev/null
    sync
    rm -f /zeros
    sync
}
[ ! -s /etc/machine-id ] || exit 1
for key in /etc/ssh/ssh_host_*; do
    [ ! -e "$key" ] || exit 1
done
echo BUILDER-GENERALISED
