# shellcheck shell=sh
# What a booted guest says about itself, read from the kernel and from files rather than from tools that a small
# image may lack.  Every fact is a line "@@ name" and the lines after it.
set -u
LC_ALL=C
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH

fact() {
    printf '@@ %s\n' "$1"
}

fact user
id -u

fact hostname
cat /proc/sys/kernel/hostname

fact kernel
uname -r

fact system
sed -n 's/^PRETTY_NAME=//p' /etc/os-release 2>/dev/null | tr -d '"'

fact command-line
cat /proc/cmdline

# One line per card: name, MAC address.
fact cards
for card in /sys/class/net/*; do
    printf '%s %s\n' "${card##*/}" "$(cat "$card/address" 2>/dev/null)"
done

fact addresses
awk '/\|-- /{ address = $2 } /\/32 host LOCAL/{ print address }' /proc/net/fib_trie | sort -u

fact routes
cat /proc/net/route

# systemd-resolved's stub says nothing about the real resolvers; the file beside it does.
fact resolvers
resolv=/etc/resolv.conf
if grep -q '^nameserver 127\.0\.0\.53' "$resolv" 2>/dev/null && [ -e /run/systemd/resolve/resolv.conf ]; then
    resolv=/run/systemd/resolve/resolv.conf
fi
sed -n 's/^nameserver[[:space:]]*//p' "$resolv" 2>/dev/null

# The root's device, in sectors of 512 bytes: its name and number, start and size; its disk's size; then the start of
# every partition of that disk.
fact root
number=$(awk '$5 == "/" { print $3 }' /proc/self/mountinfo | tail -n 1)
source=$(awk '$5 == "/" { for (i = 7; i < NF; i++) if ($i == "-") print $(i + 2) }' /proc/self/mountinfo | tail -n 1)
device=/sys/dev/block/$number
if [ ! -e "$device" ]; then
    device=/sys/class/block/$(basename "$(readlink -f "$source")")
fi
device=$(readlink -f "$device")
disk=$(dirname "$device")
printf 'device %s\n' "$(basename "$device")"
if [ -e "$device/partition" ]; then
    printf 'partition %s\n' "$(cat "$device/partition")"
    printf 'start %s\n' "$(cat "$device/start")"
    printf 'size %s\n' "$(cat "$device/size")"
    printf 'disk %s\n' "$(cat "$disk/size")"
    for other in "$disk"/*/partition; do
        printf 'other %s\n' "$(cat "${other%/partition}/start")"
    done
fi
printf 'type %s\n' "$(stat -f -c %T /)"
printf 'blocks %s\n' "$(stat -f -c '%b %S' /)"

# Seconds since the epoch at which the kernel started, and at which each host key was written.
fact started
sed -n 's/^btime //p' /proc/stat

fact host-keys
for key in /etc/ssh/ssh_host_*_key; do
    [ -e "$key" ] && printf '%s %s\n' "${key##*/}" "$(stat -c %Y "$key")"
done

fact state
if [ -d /run/systemd/system ]; then
    systemctl is-system-running 2>/dev/null
else
    echo none
fi

fact failed-units
if [ -d /run/systemd/system ]; then
    systemctl list-units --state=failed --plain --no-legend --no-pager | cut -d ' ' -f 1
fi

fact jobs
if [ -d /run/systemd/system ]; then
    systemctl list-jobs --plain --no-legend --no-pager 2>/dev/null
fi

fact end
