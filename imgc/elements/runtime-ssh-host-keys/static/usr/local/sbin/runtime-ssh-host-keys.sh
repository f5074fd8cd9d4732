#!/bin/bash
# Makes the SSH host keys that are missing.  Others (glean, sshd's own service) may do the same at the same time, so
# each key is made under a name of its own and put in place only where there is none yet.
# dib-lint: disable=dibdebugtrace
set -eu
set -o pipefail

for kind in ed25519 ecdsa rsa; do
    key=/etc/ssh/ssh_host_${kind}_key
    if [ ! -e "$key" ]; then
        new=$(mktemp -d -p /etc/ssh)
        ssh-keygen -q -t "$kind" -N '' -f "$new/key"
        if ln "$new/key" "$key" 2>/dev/null; then
            mv "$new/key.pub" "$key.pub"
        fi
        rm -rf "$new"
    fi
done
