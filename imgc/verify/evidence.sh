# shellcheck shell=sh
# What helps to understand a guest that came up wrong.
set -u
LC_ALL=C
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH

echo '@@ units that failed'
systemctl --failed --no-pager --full 2>&1

echo '@@ the journal of this boot'
journalctl -b --no-pager -n 60 -o short-monotonic 2>&1
