# What mmdebstrap must know to do it all in one transaction: the image's apt sources, the packages that the
# distribution's element installs itself, and how the release lays out /usr.

_imgc_distro=${DISTRO_NAME:-}
_imgc_release=${DIB_RELEASE:-}
_imgc_keys=${DIB_ADD_APT_KEYS:-}
_imgc_components=${DIB_DEBIAN_COMPONENTS:-}
_imgc_suites=${DIB_UBUNTU_MIRROR_DISTS:-}
_imgc_suite=
_imgc_hooks=/usr/share/mmdebstrap/hooks
_imgc_ubuntu_keys=/usr/share/keyrings/ubuntu-archive-keyring.gpg

# The image's apt sources, with a % after each line.
if [[ "${_imgc_distro}" == ubuntu ]]; then
    # ubuntu-minimal writes these lines, of these variables.
    _imgc_lines="deb ${DIB_DISTRIBUTION_MIRROR:-} ${_imgc_release} ${_imgc_components//,/ }%"
    for _imgc_suite in ${_imgc_suites//,/ }; do
        _imgc_lines+="deb ${DIB_DISTRIBUTION_MIRROR:-} ${_imgc_release}-${_imgc_suite} ${_imgc_components//,/ }%"
    done
else
    # DIB_APT_SOURCES_CONF has them, one "name:line" each; it is set by the distribution's element.
    _imgc_lines=$(printf '%s\n' "${DIB_APT_SOURCES_CONF:-}" | sed -n 's/^[^:]*://p' | tr '\n' '%')
fi

# What the distribution's element installs after the bootstrap.
if [[ "${_imgc_distro}" != ubuntu ]]; then
    _imgc_packages=systemd-sysv,busybox,sudo,gnupg2,python3
elif [[ "${_imgc_release}" == trusty ]] || [[ "${_imgc_release}" == xenial ]]; then
    # Their init system is in every system that is bootstrapped.
    _imgc_packages=busybox,sudo,python3
else
    _imgc_packages=systemd-sysv,busybox,sudo,python3
fi

# Single quotes keep the lines whole through the shell that the debootstrap element starts mmdebstrap with.
if [ -z "${DIB_MMDEBSTRAP_EXTRA_ARGS:-}" ] && [ -n "${_imgc_lines}" ] && [[ "${_imgc_lines}${_imgc_keys}" != *"'"* ]]; then
    export DIB_MMDEBSTRAP_EXTRA_ARGS="--include=${_imgc_packages}"
    # A pinned archive is older than it says it may be; that it was valid when it was pinned is all that counts.
    DIB_MMDEBSTRAP_EXTRA_ARGS+=" --aptopt='Acquire::Check-Valid-Until \"false\"'"
    DIB_MMDEBSTRAP_EXTRA_ARGS+=" --customize-hook='rm -f \"\$1/etc/apt/apt.conf.d/99mmdebstrap\"'"
    DIB_MMDEBSTRAP_EXTRA_ARGS+=" --setup-hook='echo \"${_imgc_lines}\" | tr % \"\\n\" > \"\$1/etc/apt/sources.list\"'"

    # Keys: those that the image is given to trust; else, where apt here does not trust them anyway, Ubuntu's own.
    if [ -n "${_imgc_keys}" ]; then
        DIB_MMDEBSTRAP_EXTRA_ARGS+=" --keyring='${_imgc_keys}'"
    elif [[ "${_imgc_distro}" == ubuntu ]] && [ -e "${_imgc_ubuntu_keys}" ] && [ ! -e /etc/apt/trusted.gpg.d/ubuntu-keyring-2018-archive.gpg ]; then
        DIB_MMDEBSTRAP_EXTRA_ARGS+=" --keyring=${_imgc_ubuntu_keys}"
    fi

    if [[ "${_imgc_distro}" != ubuntu ]] || [[ "${_imgc_release}" == bionic ]]; then
        :
    elif [[ "${_imgc_release}" == trusty ]] || [[ "${_imgc_release}" == xenial ]]; then
        # dpkg and init are so old there that mmdebstrap needs to be helped.
        if [ -d "${_imgc_hooks}/maybe-jessie-or-older" ]; then
            DIB_MMDEBSTRAP_EXTRA_ARGS+=" --hook-dir=${_imgc_hooks}/maybe-jessie-or-older"
        fi
    else
        # /bin, /sbin and /lib are links into /usr, and not every release has a package that makes them.  mmdebstrap's
        # own hook does it for those that have usr-is-merged; it does nothing for others.
        if [ -d "${_imgc_hooks}/maybe-merged-usr" ]; then
            DIB_MMDEBSTRAP_EXTRA_ARGS+=" --hook-dir=${_imgc_hooks}/maybe-merged-usr"
        fi
        DIB_MMDEBSTRAP_EXTRA_ARGS+=" --setup-hook='test -L \"\$1/bin\" || {"
        DIB_MMDEBSTRAP_EXTRA_ARGS+=" mkdir -p \"\$1/usr/bin\" \"\$1/usr/sbin\" \"\$1/usr/lib\" \"\$1/usr/lib64\" &&"
        DIB_MMDEBSTRAP_EXTRA_ARGS+=" ln -s usr/bin usr/sbin usr/lib usr/lib64 \"\$1/\"; }'"
    fi
fi
unset _imgc_distro _imgc_release _imgc_keys _imgc_components _imgc_suites _imgc_suite
unset _imgc_hooks _imgc_ubuntu_keys _imgc_lines _imgc_packages
