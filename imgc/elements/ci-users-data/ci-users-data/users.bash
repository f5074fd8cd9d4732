# Reads the list of users, for hooks that source this: a JSON list, checked to the end before anything is changed.
#
# In bash and grep alone, in the chroot: images need not have a Python, and a list that is read by a late hook of the
# chroot is no input of the hooks before it, so that a new key does not install all packages anew.
#
# No message repeats a value of which it is not known that it is no secret.
# shellcheck shell=bash

# What was read: the names in order, and by name the rest; groups are separated by commas, keys by line breaks.
ci_names=()
# shellcheck disable=SC2034
declare -A ci_uid=() ci_groups=() ci_sudo=() ci_shell=() ci_home=() ci_keys=()

ci_source='' ci_tokens=() ci_at=0 ci_value=''

ci_fail() {
    echo "ci-users: $ci_source: $*"
    exit 1
}

# ci_load FILE: from DIB_CI_USERS, else from FILE where there is one.
ci_load() {
    local text='' LC_ALL=C
    if [ -n "${DIB_CI_USERS:-}" ]; then
        ci_source=DIB_CI_USERS
        text=$DIB_CI_USERS
    elif [ -f "$1" ]; then
        ci_source=ci-users/users.json
        text=$(cat "$1")
    else
        return 0
    fi
    # Every sign that begins no token of JSON becomes a token of its own, which fits nowhere.
    mapfile -t ci_tokens < <(printf '%s\n' "$text" | grep -aoE \
        '"([^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null|[^[:space:]]')
    ci_list ci_user
    [ "$ci_at" = "${#ci_tokens[@]}" ] || ci_expected 'the end'
}

ci_expected() {
    if [ "$ci_at" -lt "${#ci_tokens[@]}" ]; then
        ci_fail "not JSON, or not of the form that is wanted: $1 is expected at token $((ci_at + 1))"
    fi
    ci_fail "not JSON, or not of the form that is wanted: it ends where $1 is expected"
}

# ci_take TOKEN: go on if this is the next one.
ci_take() {
    [ "${ci_tokens[ci_at]:-}" = "$1" ] || return 1
    ci_at=$((ci_at + 1))
}

# ci_list COMMAND…: a list, with COMMAND for each of its entries.
ci_list() {
    ci_take '[' || ci_expected 'a list'
    if ci_take ']'; then
        return 0
    fi
    while true; do
        "$@"
        if ci_take ']'; then
            return 0
        fi
        ci_take ',' || ci_expected 'a comma or the end of the list'
    done
}

# The next token as a string, in ci_value.
ci_string() {
    local token=${ci_tokens[ci_at]:-}
    [[ $token == '"'*'"' && ${#token} -gt 1 ]] || ci_expected 'a string'
    ci_at=$((ci_at + 1))
    ci_unescape "${token:1:${#token}-2}"
    # All that is read here goes to files of one line for each value.  sshd takes a tab for a blank.
    [[ ${ci_value//$'\t'/ } != *[[:cntrl:]]* ]] || ci_fail 'a string holds a line break or another control character'
}

ci_unescape() {
    local rest=$1 code low
    ci_value=''
    while [[ $rest == *\\* ]]; do
        ci_value+=${rest%%\\*}
        rest=${rest#*\\}
        case $rest in
            u[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F]*)
                code=$((16#${rest:1:4}))
                rest=${rest:5}
                if [ "$code" -ge $((0xd800)) ] && [ "$code" -lt $((0xdc00)) ] && [[ $rest == \\u[dD][c-fC-F]* ]]; then
                    low=${rest:2:4}
                    [[ $low =~ ^[0-9a-fA-F]{4}$ ]] || ci_fail 'a string holds an escape that is not JSON'
                    code=$((0x10000 + ((code - 0xd800) << 10) + (16#$low - 0xdc00)))
                    rest=${rest:6}
                fi
                ci_append_character "$code"
                ;;
            [\"/\\]*) ci_value+=${rest:0:1} rest=${rest:1} ;;
            b*) ci_value+=$'\b' rest=${rest:1} ;;
            f*) ci_value+=$'\f' rest=${rest:1} ;;
            n*) ci_value+=$'\n' rest=${rest:1} ;;
            r*) ci_value+=$'\r' rest=${rest:1} ;;
            t*) ci_value+=$'\t' rest=${rest:1} ;;
            *) ci_fail 'a string holds an escape that is not JSON' ;;
        esac
    done
    ci_value+=$rest
}

# ci_append_character CODE: in UTF-8, whatever the locale is.
ci_append_character() {
    local code=$1 bytes='' more=0
    if [ "$code" = 0 ] || { [ "$code" -ge $((0xd800)) ] && [ "$code" -lt $((0xe000)) ]; }; then
        ci_fail 'a string holds a character that is none'
    elif [ "$code" -lt $((0x80)) ]; then
        bytes=$code
    elif [ "$code" -lt $((0x800)) ]; then
        bytes=$((0xc0 | code >> 6)) more=1
    elif [ "$code" -lt $((0x10000)) ]; then
        bytes=$((0xe0 | code >> 12)) more=2
    else
        bytes=$((0xf0 | code >> 18)) more=3
    fi
    printf -v bytes '\\x%02x' "$bytes"
    while [ "$more" -gt 0 ]; do
        more=$((more - 1))
        printf -v bytes '%s\\x%02x' "$bytes" $((0x80 | code >> (6 * more) & 0x3f))
    done
    # %b and not the format: what follows must not be taken for a part of the escape.
    printf -v bytes '%b' "$bytes"
    ci_value+=$bytes
}

# One user.
ci_user() {
    local name='' uid='' groups='' sudo=false shell=/bin/bash home='' keys='' seen=, field
    ci_take '{' || ci_expected 'a map'
    if ! ci_take '}'; then
        while true; do
            ci_string
            field=$ci_value
            [[ $seen != *,"$field",* ]] || ci_fail "a user has the same field twice"
            seen+=$field,
            ci_take ':' || ci_expected 'a colon'
            ci_field
            if ci_take '}'; then
                break
            fi
            ci_take ',' || ci_expected 'a comma or the end of the map'
        done
    fi
    [ -n "$name" ] || ci_fail 'a user has no name'
    [ -z "${ci_sudo[$name]:-}" ] || ci_fail "the user $name is listed twice"
    if [ "$name" = root ]; then
        home=${home:-/root}
    elif [ "$uid" = 0 ]; then
        ci_fail "the number of $name is 0, that of root"
    fi
    ci_names+=("$name")
    # shellcheck disable=SC2034
    ci_uid[$name]=$uid ci_groups[$name]=$groups ci_sudo[$name]=$sudo
    # shellcheck disable=SC2034
    ci_shell[$name]=$shell ci_home[$name]=${home:-/home/$name} ci_keys[$name]=$keys
}

# The value of $field, into the local variable of ci_user that has its name.
ci_field() {
    local word='^[a-z_][a-z0-9_-]{0,31}$' path='^(/[A-Za-z0-9._+-]+)+/?$'
    case $field in
        name)
            ci_string
            [[ $ci_value =~ $word ]] || ci_fail 'a user has a name that is none'
            name=$ci_value
            ;;
        uid)
            if ! ci_take null; then
                uid=${ci_tokens[ci_at]:-}
                [[ $uid =~ ^(0|[1-9][0-9]{0,9})$ ]] || ci_expected 'the number of a user'
                [ "$uid" -lt 4294967295 ] || ci_fail 'the number of a user is too large'
                ci_at=$((ci_at + 1))
            fi
            ;;
        groups) ci_list ci_group ;;
        sudo)
            if ci_take true; then
                sudo=true
            else
                ci_take false || ci_expected 'true or false'
            fi
            ;;
        shell | home)
            ci_string
            if [ -n "$ci_value" ]; then
                [[ $ci_value =~ $path && $ci_value/ != */../* ]] || ci_fail "a user's $field is not an absolute path"
                printf -v "$field" '%s' "${ci_value%/}"
            fi
            ;;
        keys) ci_list ci_key ;;
        *) ci_fail 'a user has a field other than name, uid, groups, sudo, shell, home and keys' ;;
    esac
}

ci_group() {
    ci_string
    [[ $ci_value =~ $word ]] || ci_fail 'a user has a group whose name is none'
    groups+=${groups:+,}$ci_value
}

# A key: options, a type, and data that say of themselves that they are of this type.  That keeps private keys out.
ci_key() {
    local option='[a-zA-Z0-9-]+(="([^"\\]|\\.)*")?' rest kind data start whole
    ci_string
    [[ $ci_value != *'PRIVATE KEY'* && $ci_value != PuTTY-* ]] || ci_fail 'a private key is among the keys'
    rest=$(printf '%s' "$ci_value" | sed 's/^[[:blank:]]*//; s/[[:blank:]]*$//')
    if [[ ! $rest =~ ^(sk-)?(ssh|ecdsa)- ]]; then
        [[ $rest =~ ^($option)(,$option)*[[:blank:]]+ ]] || ci_fail 'one of the keys is not an OpenSSH public key'
        rest=${rest:${#BASH_REMATCH[0]}}
    fi
    read -r kind data _ <<<"$rest"
    case $kind in
        ssh-ed25519 | ssh-rsa | ecdsa-sha2-nistp256 | ecdsa-sha2-nistp384 | ecdsa-sha2-nistp521) ;;
        sk-ssh-ed25519@openssh.com | sk-ecdsa-sha2-nistp256@openssh.com) ;;
        *) ci_fail 'one of the keys is not an OpenSSH public key of a type that is in use' ;;
    esac
    # The data begin with the length and the name of the type; base64 has four characters for three bytes.
    start=$(printf '\0\0\0%b%s' "\\x$(printf %x "${#kind}")" "$kind" | base64 -w0)
    whole=$(((4 + ${#kind}) / 3))
    if [[ $data != "${start:0:whole*4}"* ]] || ! base64 -d <<<"$data" >/dev/null 2>&1; then
        ci_fail "the data of one of the keys are not those of an $kind key"
    fi
    keys+=${keys:+$'\n'}$(printf '%s' "$ci_value" | sed 's/^[[:blank:]]*//; s/[[:blank:]]*$//')
}

# ci_entry DATABASE KEY FIELD: nothing where there is no such entry.
ci_entry() {
    getent "$1" "$2" | cut -d: -f"$3" || true
}

# What the image must have, and must not have otherwise.
ci_check_image() {
    local name entry uid owner
    for name in ${ci_names[@]+"${ci_names[@]}"}; do
        [ "$name" != root ] || continue
        [ -x "${ci_shell[$name]}" ] || ci_fail "the shell of $name, ${ci_shell[$name]}, is not in the image"
        if [ "${ci_sudo[$name]}" = true ]; then
            command -v visudo >/dev/null || ci_fail "$name is to use sudo, and the image has none"
        fi
        uid=${ci_uid[$name]}
        entry=$(ci_entry passwd "$name" 3)
        if [ -n "$uid" ]; then
            [ "${entry:-$uid}" = "$uid" ] || ci_fail "$name is to have the number $uid, and has $entry in the image"
            owner=$(ci_entry passwd "$uid" 1)
            [ "${owner:-$name}" = "$name" ] || ci_fail "the number $uid of $name is that of $owner in the image"
            owner=$(ci_entry group "$uid" 1)
            [ -n "$entry" ] || [ "${owner:-$name}" = "$name" ] ||
                ci_fail "the number $uid of $name is that of the group $owner in the image"
        fi
    done
}

# After the users are made: dates that would differ from build to build, copies of what was before, and homes of others.
ci_settle() {
    local name owner home
    for name in ${ci_names[@]+"${ci_names[@]}"}; do
        [ "$name" != root ] || continue
        home=$(ci_entry passwd "$name" 6)
        if [ -z "$home" ]; then
            echo "imgc: warning: nothing has made the user $name"
            continue
        fi
        if [ -n "${SOURCE_DATE_EPOCH:-}" ]; then
            chage -d $((SOURCE_DATE_EPOCH / 86400)) "$name"
        fi
        owner=$(stat -c %U "$home")
        if [ "$owner" != "$name" ]; then
            echo "imgc: warning: the home of $name, $home, was there already and belongs to $owner"
        fi
    done
}
