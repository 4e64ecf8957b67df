#!/bin/sh
# Grows the root file system when its disk has become larger, and prints one line when it leaves it as it is.
#
#     grow-root [MOUNTPOINT]            grow; a disk that is as large as it was is not touched
#     grow-root --record [MOUNTPOINT]   remember how large the disk is, at the end of an installation
#
# Invariant: a partition grows only when no other one starts behind it. Root is on it itself, or as a linear LVM volume.
# Positions are the kernel's, in sectors of 512 bytes (Documentation/ABI/stable/sysfs-block), and partitioning programs
# get start and size in full. The sfdisk of EL7 must not choose them: a size of `+` means "as much as possible", and with
# -N (one partition only) it has not read the partitions that come later in the table when it works that out, so that
# it writes one that goes across them to the end of the disk, and exits with 0 (util-linux 2.23.2, fdisks/sfdisk.c:
# max_length, read_partition).
[ "$1" = --record ] && record=yes && shift
mount=${1:-/}
state=${mount%/}/var/lib/builder/disk-sectors
sys=/sys/class/block
# 2 MiB: what alignment and the backup of a GPT may leave unused at the end.
margin=4096

# Nothing is recorded, so that the next boot says it again.
refuse() {
    echo "the disk of root is larger, but root was not grown: $*"
    exit 0
}

number_of() {
    cat "$sys/$1/$2"
}

# The partition that holds root: of several physical volumes the one that starts last.
find_partition() {
    source=$(findmnt -n -v -o SOURCE "$mount" | tail -n 1)
    # By its number: /dev/mapper has links or devices of its own, as udev likes.
    part=$(readlink -f "/sys/dev/block/$(findmnt -n -o MAJ:MIN "$mount" | tail -n 1 | tr -d ' ')")
    part=${part##*/}
    volume=
    case $(cat "$sys/$part/dm/uuid" 2> /dev/null) in
        LVM-*)
            volume=$source
            below=$(ls "$sys/$part/slaves")
            part=
            for one in $below; do
                [ -r "$sys/$one/partition" ] || continue
                [ -z "$part" ] || [ "$(number_of "$one" start)" -gt "$(number_of "$part" start)" ] || continue
                part=$one
            done
            ;;
    esac
    [ -n "$part" ] && [ -r "$sys/$part/partition" ] || return 1
    disk=$(readlink -f "$sys/$part/..")
    disk=${disk##*/}
}

# Everything that can be known beforehand is, before anything is written.
require_growable() {
    case $(findmnt -n -o FSTYPE "$mount" | tail -n 1) in
        xfs) grow_file_system="xfs_growfs $mount" ;;
        ext4) grow_file_system="resize2fs $source" ;;
        *) refuse "its file system is neither xfs nor ext4" ;;
    esac
    [ -z "$volume" ] || [ "$(lvs --noheadings -o segtype "$volume" | sort -u | tr -d ' ')" = linear ] ||
        refuse "its logical volume is not linear"
}

require_last() {
    container=
    for other in "$sys/$disk"/*/partition; do
        other=${other%/partition}
        other=${other##*/}
        [ "$(number_of "$other" start)" -le "$start" ] || refuse "/dev/$other lies behind /dev/$part"
        # The kernel shows an extended partition as two sectors (block/partitions/msdos.c).
        [ "$(number_of "$other" size)" -le 2 ] && [ "$(number_of "$other" partition)" -le 4 ] && container=$other
    done
}

# sfdisk 2.23 counts in cylinders by default; later ones count in sectors in any case.
write_dos() {
    echo "$2,$3" | sfdisk -uS --force --no-reread -N "$1" "/dev/$disk" > /dev/null 2>&1
}

grow_dos() {
    [ "$(cat "$sys/$disk/queue/logical_block_size")" = 512 ] || refuse "the sectors of /dev/$disk are not of 512 bytes"
    end=$((whole / 2048 * 2048))
    # The table has 32 bits for a sector.
    [ "$end" -lt 4294967296 ] || end=4294965248
    [ "$end" -gt $((start + size)) ] || refuse "the partition table of /dev/$disk ends at 2 TiB"
    if [ "$number" -gt 4 ]; then
        [ -n "$container" ] || refuse "the extended partition around /dev/$part was not found"
        outer=$(number_of "$container" start)
        write_dos "$(number_of "$container" partition)" "$outer" $((end - outer)) || return
    fi
    write_dos "$number" "$start" $((end - start))
}

# A larger disk has its backup GPT in the wrong place, and its table says that the disk is smaller: Fix, once for each.
# The partition is in use: Yes. The sfdisk of EL7 knows no GPT.
grow_gpt() {
    printf 'Fix\nFix\n' | parted ---pretend-input-tty "/dev/$disk" print > /dev/null 2>&1
    printf 'Yes\n100%%\n' | parted ---pretend-input-tty "/dev/$disk" resizepart "$number" > /dev/null 2>&1
}

grow_partition() {
    case $(blkid -p -o value -s PTTYPE "/dev/$disk") in
        dos) grow_dos ;;
        gpt) grow_gpt ;;
        *) refuse "the partition table of /dev/$disk is of no known kind" ;;
    esac
    partx -u --nr "$number" "/dev/$disk"
    [ "$(number_of "$part" size)" -gt "$size" ] || refuse "/dev/$part did not grow"
}

free_extents() {
    vgs --noheadings -o vg_free_count "$group" | tr -d ' '
}

# Only by what the physical volume gains: extents that were free before may be reserved.
grow_volume() {
    group=$(lvs --noheadings -o vg_name "$volume" | tr -d ' ')
    before=$(free_extents)
    pvresize "/dev/$part" > /dev/null 2>&1
    gained=$(($(free_extents) - before))
    [ "$gained" -gt 0 ] || refuse "the physical volume /dev/$part did not grow"
    lvextend -l "+$gained" "$volume" "/dev/$part" > /dev/null 2>&1 || refuse "$volume did not grow"
}

find_partition || exit 0
whole=$(number_of "$disk" size)
if [ -n "$record" ]; then
    echo "$whole" > "$state"
    exit
fi
[ -s "$state" ] && [ "$whole" -le "$(cat "$state")" ] && exit
number=$(number_of "$part" partition)
start=$(number_of "$part" start)
size=$(number_of "$part" size)
require_growable
if [ $((whole - start - size)) -gt $margin ]; then
    require_last
    grow_partition
    [ -z "$volume" ] || grow_volume
fi
$grow_file_system > /dev/null 2>&1 || refuse "$grow_file_system failed"
echo "$whole" > "$state"
exit 0
