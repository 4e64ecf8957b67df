#!/bin/sh
# Gives a copy of this image its identity from builder.conf on a seed CD labelled "cidata".
#
# The seed is data: its lines are split at "=" and checked, never sourced or evaluated. Only tools of a minimal EL7 are
# used, and what differs in later ones is looked up. Nothing here may keep a machine from booting: faults are reported on
# the console and on ttyS1, and the boot goes on. The shell does itself what it can: starting a program takes 0.05 s in an
# emulated machine that has just gone on from a saved state.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
state=/var/lib/builder/instance-id
held=/var/lib/builder/held
grown=/run/builder-grown
conf=/run/builder.conf
# The host's random numbers, while they are mixed in.
random=/run/builder-random
blanks=$(printf ' \t')
# The lines of the seed that the network was set up by, and the files that were written for it.
network=/var/lib/builder/network
written=/var/lib/builder/network-files

report() {
    (echo "BUILDER $*" > /dev/ttyS1) 2> /dev/null
}

complain() {
    echo "builder: $*"
    (echo "builder: $*" > /dev/console) 2> /dev/null
    report "WARNING $*"
}

has_cd_drive() {
    for file in /sys/bus/scsi/devices/*/type; do
        [ -r "$file" ] && read -r type < "$file" && [ "$type" = 5 ] && return 0
    done
    [ -e /dev/sr0 ]
}

# A drive that the kernel already knows may take a moment to become a device; an absent one is not waited for.
find_seed() {
    tries=0
    while has_cd_drive && [ "$tries" -lt 50 ]; do
        for seed in /dev/sr*; do
            [ -b "$seed" ] && [ "$(blkid -p -o value -s LABEL "$seed" 2> /dev/null)" = cidata ] && return 0
        done
        [ -b /dev/sr0 ] && [ "$tries" -ge 10 ] && break
        tries=$((tries + 1))
        sleep 0.1
    done
    seed=
    return 1
}

# Copies what is on the seed to where it is used; each file may be missing.
read_seed() {
    [ -d /run/builder-seed ] || mkdir /run/builder-seed
    mount -o ro "$seed" /run/builder-seed || return
    # The last line may have no end.
    [ -s /run/builder-seed/builder.conf ] && { tr -d '\r' < /run/builder-seed/builder.conf; echo; } > "$conf"
    # As much as Python takes, with what comes from the host's device.
    [ -e "$random" ] && [ -f /run/builder-seed/random ] && head -c 504 /run/builder-seed/random >> "$random"
    umount /run/builder-seed
}

# value KEY: what the first line of this key says is in $found afterwards; whether there is one.
value() {
    found=
    while IFS= read -r line; do
        case $line in "$1="*) found=${line#*=} && return ;; esac
    done < "$conf"
    return 1
}

# SELinux labels, once for all files that were written: each call reads the whole policy.
relabel() {
    # shellcheck disable=SC2086
    [ -z "$labelled" ] || restorecon -R $labelled
    labelled=
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
    labelled="$labelled /etc/hostname"
    hostname "$1"
}

set_keys() {
    value ssh-key || return
    [ -d /root/.ssh ] || mkdir /root/.ssh
    sed -n 's/^ssh-key=//p' "$conf" > /root/.ssh/authorized_keys
    chmod u=rwX,go= /root/.ssh /root/.ssh/authorized_keys
    labelled="$labelled /root/.ssh"
}

is_address() {
    octet='(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
    echo "$1" | grep -Eqx "($octet\.){3}$octet"
}

is_prefix() {
    echo "$1" | grep -Eqx '[1-9]|[12][0-9]|3[0-2]'
}

# Eight groups; or fewer, with one "::" in place of those that are left out.
is_address6() {
    group='[0-9a-f]{1,4}'
    echo "$1" | grep -Eqx "($group:){7}$group" && return
    echo "$1" | grep -Eqx "($group(:$group)*)?::($group(:$group)*)?" && [ "$(echo "$1" | tr : '\n' | grep -c .)" -lt 8 ]
}

is_prefix6() {
    echo "$1" | grep -Eqx '[1-9]|[1-9][0-9]|1[01][0-9]|12[0-8]'
}

# Where there is a service "network" it reads ifcfg files, and so does NetworkManager beside it (EL7). Without one,
# NetworkManager alone is there, and reads keyfiles first (EL8) or only (EL9 and later).
has_network_scripts() {
    [ -e /etc/rc.d/init.d/network ] || [ -e /usr/lib/systemd/system/network.service ]
}

# /usr/share/doc/initscripts-*/sysconfig.txt of EL7. A link-local router is reached over a card that has to be named.
write_ifcfg() {
    echo "TYPE=Ethernet"
    echo "DEVICE=$device"
    echo "NAME=$device"
    echo "ONBOOT=yes"
    echo "BOOTPROTO=${dhcp:-none}"
    [ -n "$address" ] && echo "IPADDR=${address%/*}" && echo "PREFIX=${address#*/}"
    [ -n "$gateway" ] && echo "GATEWAY=$gateway"
    [ -n "$elsewhere" ] && echo "DEFROUTE=no"
    if [ -n "$address6" ]; then
        printf 'IPV6INIT=yes\nIPV6_AUTOCONF=no\nIPV6ADDR=%s\n' "$address6"
    fi
    case $gateway6 in
        '') ;;
        fe[89ab]?:*) echo "IPV6_DEFAULTGW=$gateway6%$device" ;;
        *) echo "IPV6_DEFAULTGW=$gateway6" ;;
    esac
    [ -n "$elsewhere6" ] && echo "IPV6_DEFROUTE=no"
    [ -n "$deaf" ] && echo "PEERDNS=no"
    number=1
    for server in $servers $servers6; do
        echo "DNS$number=$server"
        number=$((number + 1))
    done
}

# nm-settings-keyfile(5). Without a uuid NetworkManager makes one from the file's name.
write_keyfile() {
    printf '[connection]\nid=%s\ntype=ethernet\ninterface-name=%s\n\n[ipv4]\n' "$device" "$device"
    if [ -n "$address" ]; then
        printf 'method=manual\naddress1=%s\n' "$address${gateway:+,$gateway}"
    elif [ -n "$dhcp" ]; then
        echo "method=auto"
    else
        echo "method=disabled"
    fi
    write_options "$elsewhere" "$servers"
    printf '\n[ipv6]\n'
    if [ -n "$address6" ]; then
        printf 'method=manual\naddress1=%s\n' "$address6${gateway6:+,$gateway6}"
    else
        echo "method=auto"
    fi
    write_options "$elsewhere6" "$servers6"
}

write_options() {
    [ -n "$1" ] && echo "never-default=true"
    [ -n "$deaf" ] && echo "ignore-auto-dns=true"
    [ -n "$2" ] && echo "dns=$(for server in $2; do printf '%s;' "$server"; done)"
}

# The files are sourced by the network scripts of EL7, so nothing may come into them that is not an address. They take
# the place of those that the installer wrote.
write_network() {
    file=/etc/sysconfig/network-scripts/ifcfg-$device
    if has_network_scripts; then
        write_ifcfg > "$file"
    else
        rm -f "$file"
        file=/etc/NetworkManager/system-connections/$device.nmconnection
        # One that others may read is ignored.
        (umask 077 && rm -f "$file" && write_keyfile > "$file")
    fi
    labelled="$labelled $file"
    echo "$file" >> "$written"
    [ "$device" = eth0 ] && [ -n "$address" ] && report "ADDRESS ${address%/*}"
}

# One word of what is said of a card; whether it is known and well-formed.
take_word() {
    case $1 in
        dhcp) dhcp=dhcp ;;
        no-default4) elsewhere=yes ;;
        no-default6) elsewhere6=yes ;;
        no-dns) deaf=yes ;;
        via=*:*) gateway6=${1#via=} && is_address6 "$gateway6" ;;
        via=*) gateway=${1#via=} && is_address "$gateway" ;;
        dns=*:*) servers6="$servers6 ${1#dns=}" && is_address6 "${1#dns=}" ;;
        dns=*) servers="$servers ${1#dns=}" && is_address "${1#dns=}" ;;
        *:*/*) address6=$1 && is_address6 "${1%/*}" && is_prefix6 "${1#*/}" ;;
        */*) address=$1 && is_address "${1%/*}" && is_prefix "${1#*/}" ;;
        *) return 1 ;;
    esac
}

# take_words DEVICE 'WORD ...'; there is nothing in them that the shell would make file names of.
take_words() {
    device=$1 dhcp='' elsewhere='' elsewhere6='' deaf=''
    address='' address6='' gateway='' gateway6='' servers='' servers6=''
    case $2 in *[!0-9a-z:./=\ -]*) complain "address '$2' refused"; return 1 ;; esac
    for word in $2; do
        take_word "$word" || { complain "address '${word#*=}' refused"; return 1; }
    done
}

# Bridges and the like have addresses of cards, too, but no device.
find_card() {
    tries=0
    while [ "$tries" -lt 100 ]; do
        for card in /sys/class/net/*; do
            [ -e "$card/device" ] && read -r mac < "$card/address" && [ "$mac" = "$1" ] && echo "${card##*/}" && return 0
        done
        tries=$((tries + 1))
        sleep 0.1
    done
    return 1
}

network_lines() {
    grep -E '^(card|address|gateway|dns)=' "$conf"
}

# Either a line for each card, or what there is to say of the first one, which net.ifnames=0 calls eth0. What was written
# for other cards goes first: they may not be there any more.
set_addresses() {
    [ -e "$written" ] && while read -r file; do rm -f "$file"; done < "$written" && rm -f "$written"
    network_lines > "$network"
    if value card; then
        while IFS="=$blanks" read -r key mac words; do
            case $key in card) set_card "$mac" "$words" ;; esac
        done < "$conf"
        return 0
    fi
    value address
    [ -n "$found" ] || return
    words=$found
    value gateway
    words="$words${found:+ via=$found}"
    value dns
    words="$words${found:+ dns=$(echo "$found" | sed 's:,: dns=:g')}"
    take_words eth0 "$words" && write_network
}

# set_card MAC 'WORD ...'
set_card() {
    device=$(find_card "$1") || { complain "there is no card $1"; return; }
    take_words "$device" "$2" && write_network
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
    while IFS= read -r line; do
        case ${line%%=*} in
            "$line" | *'#'* | instance-id | hostname | ssh-key | card | address | gateway | dns) ;;
            *) complain "seed: key '${line%%=*}' is not known and was ignored" ;;
        esac
    done < "$conf"
}

# One key, so that the fingerprint below can be reported before sshd starts; sshd-keygen adds the other types.
make_host_key() {
    key=/etc/ssh/ssh_host_ed25519_key
    [ -s "$key" ] || ssh-keygen -q -t ed25519 -f "$key" -N '' -C ''
    labelled="$labelled $key $key.pub"
}

tell_fingerprints() {
    for public in /etc/ssh/ssh_host_*_key.pub; do
        [ -s "$public" ] || continue
        # "256 SHA256:… comment (ED25519)": the second word and the last
        line=$(ssh-keygen -l -f "$public")
        kind=${line##*\(}
        line=${line#* }
        report "HOSTKEY ${line%% *} ${kind%)}"
    done
}

# first-boot --hold: a machine with this word in its SMBIOS (no clone has it) waits here for a seed, to be saved while it
# has no identity. Its copies go on when a seed is in the drive; what they would have in common is made anew first.
is_to_wait() {
    [ -r /sys/class/dmi/id/chassis_asset_tag ] && read -r tag < /sys/class/dmi/id/chassis_asset_tag &&
        [ "$tag" = builder-hold ]
}

find_python() {
    for python in /usr/libexec/platform-python /usr/bin/python3 /usr/bin/python; do
        [ -x "$python" ] && return 0
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
    "$python" -c '
import fcntl, os, struct
pool = os.open("/dev/urandom", os.O_RDWR)
# Python takes up to 1024 bytes with an ioctl, and eight are the numbers in front.
data = os.read(0, 1016)
fcntl.ioctl(pool, 0x40085203, struct.pack("ii", len(data) * 8, len(data)) + data)
fcntl.ioctl(pool, 0x5207)
'
}

# Python starts before the machine is saved, and waits at a pipe.
prepare_mixing() {
    is_mixed_by_writing && return
    find_python || return
    (umask 077 && mkfifo "$random.pipe") && exec 3<> "$random.pipe" && rm "$random.pipe" || return
    reseed <&3 &
    reseeding=$!
}

# From the host: by its own device, and from the seed.
mix_randomness() {
    (umask 077 && : > "$random")
    timeout 5 dd if=/dev/hwrng of="$random" bs=512 count=1 iflag=fullblock 2> /dev/null
    read_seed
    [ -s "$random" ] || return 1
    # A copy that boots after all has nothing waiting.
    [ -n "$reseeding" ] || prepare_mixing
    if [ -n "$reseeding" ]; then
        cat "$random" >&3 && wait "$reseeding"
    else
        cat "$random" > /dev/urandom
    fi
}

set_clock() {
    [ -r /sys/class/rtc/rtc0/since_epoch ] && read -r seconds < /sys/class/rtc/rtc0/since_epoch &&
        date -s "@$seconds" > /dev/null
}

# Not by systemd-machine-id-setup, which may take the UUID of the machine: that of the saved one is still in memory.
renew_machine_id() {
    read -r old < /etc/machine-id
    while umount /etc/machine-id 2> /dev/null; do :; done
    read -r uuid < /proc/sys/kernel/random/uuid
    new=$(IFS=- && set -- $uuid && echo "$1$2$3$4$5")
    echo "$new" > /etc/machine-id
    for journal in /run/log/journal /var/log/journal; do
        [ -d "$journal/$old" ] && mv "$journal/$old" "$journal/$new"
    done
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
    [ -s "$key" ] && let_sshd_start_first
    [ -n "$(/usr/libexec/builder/grow-root)" ] || touch "$grown"
    rm -f "$key" "$key.pub"
}

# The keys of other types than the one that is made here take seconds, and a copy's sshd does not wait for them: each
# process that serves a connection reads anew which there are (OpenSSH before 9.8, sshd.c, main). Later ones, with a
# program sshd-session, are given the keys by the first process.
let_sshd_start_first() {
    [ -e /usr/libexec/openssh/sshd-session ] || [ -e /usr/lib/openssh/sshd-session ] && return
    for unit in sshd-keygen.service sshd-keygen@.service; do
        override=/run/systemd/system/$unit.d
        mkdir -p "$override"
        printf '[Service]\nType=simple\nNice=19\n' > "$override/builder.conf"
    done
    systemctl daemon-reload
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
    if is_to_wait && ! find_seed; then
        prepare_mixing || { complain "this system cannot be held: no python"; return; }
        practise > /dev/null 2>&1
        wait_until_settled
        touch "$held"
        sync
        report "HELD"
        until find_seed; do :; done
    fi
    # It is there as well when such a copy boots after all.
    [ -e "$held" ] || return
    look_for_card
    if { [ -n "$seed" ] || find_seed; } && ! mix_randomness && is_to_wait; then
        complain "no new random numbers, so this machine is booted"
        reboot -f
    fi
    set_clock
    renew_machine_id
    systemctl --no-block try-restart systemd-journald.service chronyd.service
    wait_for_card
    # What this boot has saved for the next is the same in all copies.
    rm -f "$random" /var/lib/systemd/random-seed "$held"
}

if [ "$1" = --hold ]; then
    hold
    exit 0
fi

instance=
# A copy of a saved machine has read it already.
[ -s "$conf" ] || { find_seed && read_seed; }
if [ -s "$conf" ]; then
    value instance-id
    instance=$found
    last=
    [ -s "$state" ] && IFS= read -r last < "$state"
    if [ -n "$instance" ] && [ "$instance" != "$last" ]; then
        forget_host_keys
        value hostname
        set_hostname "$found"
        set_keys
        set_addresses
        warn_of_unknown
        echo "$instance" > "$state"
        labelled="$labelled /var/lib/builder"
    elif [ -e "$network" ] && [ "$(network_lines)" != "$(cat "$network")" ]; then
        # The cards of this machine were changed while it was off.
        set_addresses
        labelled="$labelled /var/lib/builder"
    fi
fi
make_host_key
relabel
grow_root
tell_fingerprints
# The unit may be started once more, with another seed in the drive.
: > "$conf"
report "READY ${instance:-none}"
exit 0
