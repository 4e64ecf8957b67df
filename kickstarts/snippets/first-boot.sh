#!/bin/sh
# Gives a copy of this image its identity from builder.conf on a seed CD labelled "cidata".
#
# The seed is data: its lines are split at "=" and checked, never sourced or evaluated. Only tools of a minimal EL7 are
# used, and what differs in later ones is looked up. Nothing here may keep a machine from booting: faults are reported on
# the console and on ttyS1, and the boot goes on.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
state=/var/lib/builder/instance-id
held=/var/lib/builder/held
grown=/run/builder-grown
conf=/run/builder.conf

report() {
    (echo "BUILDER $*" > /dev/ttyS1) 2> /dev/null
}

complain() {
    echo "builder: $*"
    (echo "builder: $*" > /dev/console) 2> /dev/null
    report "WARNING $*"
}

has_cd_drive() {
    for type in /sys/bus/scsi/devices/*/type; do
        [ -r "$type" ] && [ "$(cat "$type")" = 5 ] && return 0
    done
    [ -e /dev/sr0 ]
}

# A drive that the kernel already knows may take a moment to become a device; an absent one is not waited for.
find_seed() {
    tries=0
    while has_cd_drive && [ "$tries" -lt 50 ]; do
        for drive in /dev/sr*; do
            [ -b "$drive" ] || continue
            [ "$(blkid -p -o value -s LABEL "$drive" 2> /dev/null)" = cidata ] && echo "$drive" && return 0
        done
        [ -b /dev/sr0 ] && [ "$tries" -ge 10 ] && return 1
        tries=$((tries + 1))
        sleep 0.1
    done
    return 1
}

value() {
    sed -n "s/^$1=//p" "$conf" | head -n 1
}

# Linux takes 64 characters, and DNS 63 in each part between dots; no part begins or ends with a '-'.
is_hostname() {
    case $1 in
        '' | *[!A-Za-z0-9.-]* | .* | *. | *..* | -* | *- | *.-* | *-.*) return 1 ;;
    esac
    ! echo "$1" | grep -Eq '.{65}|[^.]{64}'
}

set_hostname() {
    is_hostname "$1" || { complain "hostname '$1' refused"; return; }
    echo "$1" > /etc/hostname
    restorecon /etc/hostname
    hostname "$1"
}

set_keys() {
    grep -q '^ssh-key=' "$conf" || return
    mkdir -p /root/.ssh
    chmod 0700 /root/.ssh
    sed -n 's/^ssh-key=//p' "$conf" > /root/.ssh/authorized_keys
    chmod 0600 /root/.ssh/authorized_keys
    restorecon -R /root/.ssh
}

is_address() {
    octet='(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
    echo "$1" | grep -Eqx "($octet\.){3}$octet"
}

is_prefix() {
    echo "$1" | grep -Eqx '[1-9]|[12][0-9]|3[0-2]'
}

# Where there is a service "network" it reads ifcfg files, and so does NetworkManager beside it (EL7). Without one,
# NetworkManager alone is there, and reads keyfiles first (EL8) or only (EL9 and later).
has_network_scripts() {
    [ -e /etc/rc.d/init.d/network ] || [ -e /usr/lib/systemd/system/network.service ]
}

write_ifcfg() {
    echo "TYPE=Ethernet"
    echo "DEVICE=eth0"
    echo "NAME=eth0"
    echo "ONBOOT=yes"
    echo "BOOTPROTO=none"
    echo "IPADDR=${address%/*}"
    echo "PREFIX=$prefix"
    [ -n "$gateway" ] && echo "GATEWAY=$gateway"
    number=1
    for server in $servers; do
        echo "DNS$number=$server"
        number=$((number + 1))
    done
}

# nm-settings-keyfile(5). Without a uuid NetworkManager makes one from the file's name.
write_keyfile() {
    printf '[connection]\nid=eth0\ntype=ethernet\ninterface-name=eth0\n\n[ipv4]\nmethod=manual\n'
    echo "address1=${address%/*}/$prefix${gateway:+,$gateway}"
    [ -n "$servers" ] && echo "dns=$(for server in $servers; do printf '%s;' "$server"; done)"
    printf '\n[ipv6]\nmethod=auto\n'
}

# One interface: the first one, which net.ifnames=0 calls eth0. The file is sourced by the network scripts of EL7,
# so nothing may come into it that is not an address. It takes the place of the one that the installer wrote.
set_address() {
    address=$(value address)
    [ -n "$address" ] || return
    gateway=$(value gateway)
    servers=$(value dns | tr ',' ' ')
    prefix=${address#*/}
    is_prefix "$prefix" || { complain "address '$address' refused"; return; }
    for one in ${address%/*} $gateway $servers; do
        is_address "$one" || { complain "address '$one' refused"; return; }
    done
    if has_network_scripts; then
        file=/etc/sysconfig/network-scripts/ifcfg-eth0
        write_ifcfg > "$file"
    else
        rm -f /etc/sysconfig/network-scripts/ifcfg-eth0
        file=/etc/NetworkManager/system-connections/eth0.nmconnection
        # One that others may read is ignored.
        (umask 077 && rm -f "$file" && write_keyfile > "$file")
    fi
    restorecon "$file"
    report "ADDRESS ${address%/*}"
}

# What it prints is why root was left as it is.
grow_root() {
    [ -e "$grown" ] && return
    /usr/libexec/builder/grow-root | while read -r line; do complain "$line"; done
}

# The copy of a machine that was booted before: its host keys belong to that one.
forget_host_keys() {
    [ -s "$state" ] && rm -f /etc/ssh/ssh_host_*
}

warn_of_unknown() {
    sed -n 's/^\([^=#]*\)=.*/\1/p' "$conf" | while read -r key; do
        case $key in
            instance-id | hostname | ssh-key | address | gateway | dns) ;;
            *) complain "seed: key '$key' is not known and was ignored" ;;
        esac
    done
}

# One key, so that the fingerprint below can be reported before sshd starts; sshd-keygen adds the other types.
make_host_key() {
    key=/etc/ssh/ssh_host_ed25519_key
    [ -s "$key" ] || ssh-keygen -q -t ed25519 -f "$key" -N '' -C ''
    restorecon "$key" "$key.pub"
}

tell_fingerprints() {
    for public in /etc/ssh/ssh_host_*_key.pub; do
        [ -s "$public" ] || continue
        # "256 SHA256:… comment (ED25519)": the second word and the last
        report "HOSTKEY $(ssh-keygen -l -f "$public" | sed 's/^[0-9]* \([^ ]*\) .*(\(.*\))$/\1 \2/')"
    done
}

# first-boot --hold: a machine with this word in its SMBIOS (no clone has it) waits here for a seed, to be saved while it
# has no identity. Its copies go on when a seed is in the drive; what they would have in common is made anew first.
is_to_wait() {
    [ "$(cat /sys/class/dmi/id/chassis_asset_tag 2> /dev/null)" = builder-hold ]
}

find_python() {
    for python in /usr/libexec/platform-python /usr/bin/python3 /usr/bin/python; do
        [ -x "$python" ] && echo "$python" && return 0
    done
    return 1
}

# Up to Linux 4.7 what is written to /dev/urandom goes into the very pool that it is read from (drivers/char/random.c,
# random_write). Later ones read from a generator, which takes up what is in the pool after up to five minutes, or at
# once when it is told to.
is_mixed_by_writing() {
    release=$(uname -r)
    major=${release%%.*}
    minor=${release#*.}
    [ "$major" -lt 4 ] || { [ "$major" -eq 4 ] && [ "${minor%%.*}" -lt 8 ]; }
}

# RNDADDENTROPY, so that 4.18 finds enough in the pool, and RNDRESEEDCRNG (include/uapi/linux/random.h).
reseed() {
    "$(find_python)" -c '
import fcntl, os, struct
# Python takes up to 1024 bytes with an ioctl.
data = os.read(0, 512)
pool = os.open("/dev/urandom", os.O_RDWR)
fcntl.ioctl(pool, 0x40085203, struct.pack("ii", len(data) * 8, len(data)) + data)
fcntl.ioctl(pool, 0x5207)
'
}

# From the host: by its own device, and from the seed.
mix_randomness() {
    new=/run/builder-random
    (umask 077 && timeout 5 dd if=/dev/hwrng of="$new" bs=512 count=1 iflag=fullblock) 2> /dev/null
    mkdir -p /run/builder-seed
    if mount -o ro "$1" /run/builder-seed; then
        cat /run/builder-seed/random >> "$new"
        umount /run/builder-seed
    fi
    [ -s "$new" ] && cat "$new" > /dev/urandom && { is_mixed_by_writing || reseed < "$new"; }
    mixed=$?
    rm -f "$new"
    return $mixed
}

set_clock() {
    seconds=$(cat /sys/class/rtc/rtc0/since_epoch 2> /dev/null) && date -s "@$seconds" > /dev/null
    systemctl --no-block try-restart chronyd.service
}

# Not by systemd-machine-id-setup, which may take the UUID of the machine: that of the saved one is still in memory.
renew_machine_id() {
    old=$(cat /etc/machine-id)
    while umount /etc/machine-id 2> /dev/null; do :; done
    new=$(tr -d - < /proc/sys/kernel/random/uuid)
    echo "$new" > /etc/machine-id
    restorecon /etc/machine-id
    for journal in /run/log/journal /var/log/journal; do
        [ -d "$journal/$old" ] && mv "$journal/$old" "$journal/$new"
    done
    systemctl --no-block restart systemd-journald.service
}

# All that can start without an identity has started: no job runs but the one of this script.
wait_until_settled() {
    tries=0
    while [ "$(systemctl list-jobs --no-legend --no-pager | grep -c ' running *$')" -gt 1 ] && [ "$tries" -lt 300 ]; do
        tries=$((tries + 1))
        sleep 0.2
    done
}

# What is needed as soon as there is an identity is read from the disk now: modules, libraries, programs.
practise() {
    key=/run/builder-practice
    modprobe -a isofs virtio_net
    ssh-keygen -q -t ed25519 -f "$key" -N '' -C ''
    ssh-keygen -l -f "$key.pub"
    "$(command -v sshd)" -t -h "$key"
    is_mixed_by_writing || "$(find_python)" -c 'import fcntl, os, struct'
    [ -n "$(/usr/libexec/builder/grow-root)" ] || touch "$grown"
    rm -f "$key" "$key.pub"
}

look_for_card() {
    echo 1 > /sys/bus/pci/rescan
}

wait_for_card() {
    tries=0
    while [ ! -e /sys/class/net/eth0 ] && [ "$tries" -lt 100 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
}

hold() {
    if is_to_wait && ! find_seed > /dev/null; then
        is_mixed_by_writing || find_python > /dev/null || { complain "this system cannot be held: no python"; return; }
        practise > /dev/null 2>&1
        wait_until_settled
        touch "$held"
        sync
        report "HELD"
        until find_seed > /dev/null; do :; done
    fi
    # It is there as well when such a copy boots after all.
    [ -e "$held" ] || return
    look_for_card
    if seed=$(find_seed) && ! mix_randomness "$seed" && is_to_wait; then
        complain "no new random numbers, so this machine is booted"
        reboot -f
    fi
    # What this boot has saved is the same in all copies.
    rm -f /var/lib/systemd/random-seed
    set_clock
    renew_machine_id
    wait_for_card
    rm -f "$held"
}

if [ "$1" = --hold ]; then
    hold
    exit 0
fi

instance=
if seed=$(find_seed); then
    mkdir -p /run/builder-seed
    if mount -o ro "$seed" /run/builder-seed; then
        [ -f /run/builder-seed/builder.conf ] && tr -d '\r' < /run/builder-seed/builder.conf > "$conf"
        umount /run/builder-seed
    fi
    rmdir /run/builder-seed
fi
if [ -s "$conf" ]; then
    instance=$(value instance-id)
    if [ -n "$instance" ] && [ "$instance" != "$(cat "$state" 2> /dev/null)" ]; then
        forget_host_keys
        set_hostname "$(value hostname)"
        set_keys
        set_address
        warn_of_unknown
        echo "$instance" > "$state"
        restorecon "$state"
    fi
fi
grow_root
make_host_key
tell_fingerprints
report "READY ${instance:-none}"
exit 0
